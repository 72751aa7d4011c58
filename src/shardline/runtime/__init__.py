"""The engine under a node: sessions, their cache, one span's steps."""

from shardline.runtime.engine import EngineReport, RunsBlocks, SpanEngine
from shardline.runtime.prefixes import Named
from shardline.runtime.scheduler import Scheduler

__all__ = ["EngineReport", "Named", "RunsBlocks", "Scheduler", "SpanEngine"]
