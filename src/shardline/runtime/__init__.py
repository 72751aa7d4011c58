"""The engine under a node: sessions, their cache, one span's steps."""

from shardline.runtime.engine import EngineReport, RunsBlocks, SpanEngine

__all__ = ["EngineReport", "RunsBlocks", "SpanEngine"]
