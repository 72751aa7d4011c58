"""The engine under a node: sessions, their cache, one span's steps."""

from shardline.runtime.engine import EngineReport, RunsBlocks, SpanEngine
from shardline.runtime.scheduler import Scheduler

__all__ = ["EngineReport", "RunsBlocks", "Scheduler", "SpanEngine"]
