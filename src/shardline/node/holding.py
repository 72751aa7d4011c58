"""The blocks in this node's memory: read beside the engine's work, given to it, let go of.

While blocks are read, those that are here serve on. What the reading needs is taken from the cache
that is promised, before a byte is read: the node never holds more than it was given.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import TYPE_CHECKING

from shardline.core.errors import ShardlineError
from shardline.core.spans import Span
from shardline.model import LoadedSpan, decode_rate, load_span
from shardline.runtime import SpanEngine

if TYPE_CHECKING:
    from concurrent.futures import Executor

    import torch
    from torch import nn

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
        self.engine = SpanEngine(LoadedSpan(budget.plan, Span(0, 1), {}), cache_tokens=0)
        self._budget = budget
        self._device = device
        self._thread = thread
        self._blocks: dict[int, nn.Module] = {}
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
        await self._give(tokens)
        return True

    async def fetch(self, span: Span) -> None:
        """Read the span's blocks that are not here; all of them are the engine's when all are here.

        Raises CorruptWeights and whatever reading memory or disk may: then what was read is let go.
        """
        fresh: dict[int, nn.Module] = {}
        for piece in _pieces([block for block in _range(span) if block not in self._blocks]):
            loaded = await asyncio.to_thread(self._read, piece)
            fresh |= loaded.blocks
        self._blocks |= fresh

    async def serve(self, span: Span) -> None:
        """Promise what this span leaves free; other blocks that are here serve on."""
        self._serves = span
        await self._give(max(0, self._budget.cache_tokens(span, beside=self._blocks)))

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
        """Single-token steps a second through one of the blocks that serve; 0 if none can be told.

        Takes so long, and more where a block takes that long; the engine waits.
        """
        loaded = self._loaded().part(self._serves)
        rate = functools.partial(decode_rate, loaded, budget_s=budget_s)
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
        each_bytes = budget.token_bytes(self._serves)
        return {
            "sessions": report.sessions,
            "cache_tokens_free": report.cache_tokens_free,
            "cache_tokens_total": report.cache_tokens_total,
            "memory_used_bytes": budget.blocks_bytes(self._blocks) + taken * each_bytes,
        }

    def _read(self, span: Span) -> LoadedSpan:
        budget = self._budget
        loaded = load_span(
            budget.plan, span, dtype=budget.dtype, device=self._device, weights=budget.weights
        )
        loaded.warm()
        return loaded

    def _loaded(self) -> LoadedSpan:
        """All blocks that are here; those between them may not be."""
        hull = Span(min(self._blocks, default=0), max(self._blocks, default=0) + 1)
        return LoadedSpan(self._budget.plan, hull, dict(self._blocks), self._budget.cache)

    async def _give(self, cache_tokens: int) -> None:
        loaded = self._loaded()
        hold = lambda: self.engine.hold(loaded, cache_tokens=cache_tokens)  # noqa: E731
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
