"""The blocks in this node's memory: read beside the engine's work, given to it, let go of.

While blocks are read, those that are here serve on. What the reading needs is taken from the cache
that is promised, before a byte is read: the node never holds more than it was given.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import TYPE_CHECKING, Any

from shardline.core.errors import ShardlineError
from shardline.core.spans import Span
from shardline.runtime import SpanEngine

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Executor

    import torch

    from shardline.node.machine import Budget

__all__ = ["Holding"]

_log = logging.getLogger(__name__)

MEASURE_S = 0.5
"""How long a node measures itself before it serves. Longer is steadier, and later."""
TRY_S = 0.1
"""The same before it chooses its blocks, when a rough figure does."""


class Holding:
    """The blocks that are here and the engine that runs them; `thread` is the engine's."""

    def __init__(self, budget: Budget, device: torch.device, thread: Executor) -> None:
        self.engine = SpanEngine(budget.model.runs({}, 0), cache_tokens=0)
        self._budget = budget
        self._device = device
        self._thread = thread
        self._blocks: dict[int, Any] = {}
        self._serves = Span(0, 1)

    async def make_room(self, to: Span) -> bool:
        """Promise only as much cache as leaves room to read the blocks of `to` that are not here.

        False, and all as it was, if sessions have taken more already.
        """
        coming = {*self._blocks, *range(to.start, to.stop)}
        tokens = self._budget.cache_tokens(self._serves, beside=coming)
        report = self.engine.report()
        if tokens < max(1, report.cache_tokens_total - report.cache_tokens_free):
            return False
        await self._give(coming)
        return True

    async def fetch(self, span: Span) -> None:
        """Read the span's blocks that are not here; all of them are the engine's when all are here.

        Raises CorruptWeights and whatever reading memory or disk may: then what was read is let go.
        """
        fresh: dict[int, Any] = {}
        for piece in _pieces([block for block in _range(span) if block not in self._blocks]):
            read = functools.partial(self._budget.model.read, piece, self._device)
            fresh |= await asyncio.to_thread(read)
        self._blocks |= fresh

    async def serve(self, span: Span) -> None:
        """Promise what this span leaves free; other blocks that are here serve on."""
        self._serves = span
        await self._give(self._blocks)

    async def try_out(self) -> float:
        """As `measure`, quickly, on a block that is read for this and let go; nothing is here yet.

        A block that cannot be read is no reason to stop: another may be this node's.
        """
        one = Span(0, 1)
        try:
            await self.fetch(one)
            await self.serve(one)
            return await self.measure(TRY_S)
        except (ShardlineError, RuntimeError, OSError, MemoryError) as error:
            _log.info("this node's speed is not known before it chooses: %s", error)
            return 0.0
        finally:
            await self.keep(None)

    async def measure(self, budget_s: float = MEASURE_S) -> float:
        """Single steps a second through one of the blocks that serve; 0 if none can be told.

        Takes so long, and more where a block takes that long; the engine waits.
        """
        rate = functools.partial(self._budget.model.rate, self._blocks, self._serves, budget_s)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, rate)
        except ShardlineError as error:
            _log.info("this node's speed shows with its first steps: %s", error)
            return 0.0

    async def keep(self, span: Span | None) -> None:
        """Let go of all blocks but these; sessions that are still open keep theirs."""
        self._blocks = {
            block: module
            for block, module in self._blocks.items()
            if span is not None and block in span
        }
        await self.serve(self._serves)

    def fullness(self) -> dict[str, int]:
        """Sessions, and memory for weights and cache, as far as they are promised."""
        report, budget = self.engine.report(), self._budget
        taken = report.cache_tokens_total - report.cache_tokens_free
        each_bytes = budget.model.token_bytes(self._serves)
        return {
            "sessions": report.sessions,
            "cache_tokens_free": report.cache_tokens_free,
            "cache_tokens_total": report.cache_tokens_total,
            "memory_used_bytes": budget.blocks_bytes(self._blocks) + taken * each_bytes,
        }

    async def _give(self, held: Iterable[int]) -> None:
        """Let the engine have the blocks that are here, and what all these leave free."""
        budget, serves = self._budget, self._serves
        tokens = max(0, budget.cache_tokens(serves, beside=held))
        loaded = budget.model.runs(self._blocks, budget.room_bytes(serves, beside=held))
        hold = lambda: self.engine.hold(loaded, cache_tokens=tokens)  # noqa: E731
        await asyncio.get_running_loop().run_in_executor(self._thread, hold)


def _range(span: Span) -> range:
    return range(span.start, span.stop)


def _pieces(blocks: list[int]) -> list[Span]:
    """Ascending blocks as runs."""
    pieces: list[Span] = []
    for block in blocks:
        if pieces and pieces[-1].stop == block:
            pieces[-1] = Span(pieces[-1].start, block + 1)
        else:
            pieces.append(Span(block, block + 1))
    return pieces
