"""The life of a move: how a node comes to hold other blocks, so that the slowest get faster.

Now and then a node asks `decide`. If it is the one to move, it says where to and waits until all
have heard of it; goes if it still may; reads the new blocks while the old ones serve; asks once
more; and only then says that it is there. Who sits on blocks that it leaves goes elsewhere as when
a node leaves, with nothing lost; who sits on blocks that it keeps notices nothing.

Links count when it asks, and plans: both take longer than the event loop may, so that happens on a
thread that yields to all else. While the node has nothing to do it searches for better plans there.

Memory that cannot hold both is no reason to stay, as then few would ever move: such a node leaves
the old blocks first, which others hold (`may_move`), and serves what it keeps while it reads. If
reading fails it goes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from shardline.core.errors import ShardlineError
from shardline.core.spans import Span
from shardline.node.probing import PROBE_S
from shardline.swarm import SETTLE_S, State, decide, may_move, swarm_throughput

if TYPE_CHECKING:
    from shardline.core.clock import Clock
    from shardline.node.holding import Holding
    from shardline.node.telling import Teller
    from shardline.node.worker import Worker
    from shardline.swarm import NodeRecord

__all__ = ["Mover", "Pace"]

_log = logging.getLogger(__name__)

THINK_S = 60.0
"""How often a node asks itself whether it should move, give or take a half."""
TURNS = 3
"""How often a mover waits for others to let it go first."""
NEWS_S = 2.0
"""How long seats on the old blocks are still given: callers choose by the last record they saw. A
newcomer listens for as long before it chooses."""
LEAVE_S = 5.0
"""How long callers have to take their sessions elsewhere. Longer spares them a replay, shorter lets
the machine go."""
LOOK_S = 20.0
"""Between two looks at links and plans, whatever the pace: a look takes tenths of a second."""
NICE = 5
"""Of that look: a step that comes goes first, but a machine that others keep busy still moves."""
FAILED_S = 600.0
"""How long a node that could not read its new blocks lets others move instead."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How a node takes its time, in seconds; tests take less."""

    think_s: float = THINK_S
    settle_s: float = SETTLE_S
    news_s: float = NEWS_S
    leave_s: float = LEAVE_S
    probe_s: float = PROBE_S

    def times(self, factor: float) -> Pace:
        """All waits so many times as long."""
        waits = (self.think_s, self.settle_s, self.news_s, self.leave_s, self.probe_s)
        return Pace(*(wait_s * factor for wait_s in waits))


class Mover:
    """Moves a node that is READY from span to span."""

    def __init__(  # noqa: PLR0913, PLR0917 - the node's parts, then how it goes about it
        self,
        teller: Teller,
        holding: Holding,
        worker: Worker,
        pace: Pace,
        clock: Clock,
        step_bytes: int,
    ) -> None:
        self._teller = teller
        self._holding = holding
        self._worker = worker
        self._pace = pace
        self._clock = clock
        self._step_bytes = step_bytes
        self._sits_out_until_s: float | None = None
        self._looked_at_s = -inf
        self._steps_seen = 0

    async def run(self) -> None:
        """Think now and then, until cancelled."""
        aside = ThreadPoolExecutor(1, "shardline-plans", _yield_to_all)
        try:
            while True:
                await asyncio.sleep(self._pace.think_s * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
                await self._think(aside)
        finally:
            aside.shutdown(wait=False, cancel_futures=True)

    async def _think(self, aside: ThreadPoolExecutor) -> None:
        """Move if this node should; returns once it has, or has not."""
        mine = self._teller.record
        if self._sits_out_until_s is not None:
            if self._clock.monotonic_s() < self._sits_out_until_s:
                return
            self._sits_out_until_s = None
            await self._teller.publish(placed_at_s=self._clock.wall_s())
        records = await self._teller.records()
        asked = partial(decide, mine.node, records, now_s=self._clock.wall_s())
        due = self._clock.monotonic_s() >= self._looked_at_s + LOOK_S
        if due and _whole(mine, records):  # a hole cannot wait until the machine has time
            asked = partial(asked, step_bytes=self._step_bytes, refined=self._idle())
            move = await asyncio.get_running_loop().run_in_executor(aside, asked)
            self._looked_at_s = self._clock.monotonic_s()
        else:
            move = asked()
        if move is None:
            return
        to = move.span
        await self._teller.publish(next_start=to.start, next_stop=to.stop)
        if not await self._turn():
            await self._stay(f"stays with blocks {mine.span}: others move, or it is needed here")
            return
        try:
            arrived = await self._go(mine.span, to)
        except (ShardlineError, RuntimeError, OSError, MemoryError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            self._sits_out_until_s = self._clock.monotonic_s() + FAILED_S
            await self._stay(f"stays with blocks {mine.span}: {to} could not be read: {reason}")
            return
        if arrived:
            _log.info("%s moved from blocks %s to %s", mine.name, mine.span, to)

    def _idle(self) -> bool:
        """Whether nothing was computed since this was asked last, and nothing waits."""
        steps, before = self._worker.tally.steps, self._steps_seen
        self._steps_seen = steps
        return steps == before and not self._worker.queue

    async def _go(self, old: Span, to: Span) -> bool:
        """Read the new blocks, and take them over in place of the old ones; False if not any more.

        Raises what reading raises, with the old blocks back in service.
        """
        holding = self._holding
        if not await holding.make_room(to):
            await self._leave_first(old, to)
            return True
        try:
            await holding.fetch(to)
            if not await self._may_move():
                await holding.keep(old)
                await self._stay(f"stays with blocks {old}: it became needed here")
                return False
        except (ShardlineError, RuntimeError, OSError, MemoryError):
            await holding.keep(old)
            raise
        await holding.serve(to)
        await self._arrive(old, to)
        return True

    async def _leave_first(self, old: Span, to: Span) -> None:
        """As `_go`, where memory cannot hold both."""
        kept = _common(old, to)
        await self._holding.serve(to)
        if kept is None:
            self._worker.offer(old)
            await self._teller.publish(state=State.LOADING, start=to.start, stop=to.stop)
        else:
            self._worker.offer(kept, old)
            await self._teller.publish(start=kept.start, stop=kept.stop)
        await self._hand_over(kept)
        try:
            await self._holding.fetch(to)
        except (ShardlineError, RuntimeError, OSError, MemoryError):
            await self._holding.fetch(old)  # if this fails too, the node has nothing to serve
            await self._holding.serve(old)
            self._worker.offer(old)
            await self._teller.publish(state=State.READY, start=old.start, stop=old.stop)
            raise
        await self._holding.serve(to)
        await self._arrive(to, to)

    async def _arrive(self, old: Span, to: Span) -> None:
        """Say that the new blocks are served, and hand over what sits on the old ones."""
        self._worker.offer(to, old)
        await self._teller.publish(
            state=State.READY,
            start=to.start,
            stop=to.stop,
            next_start=0,
            next_stop=0,
            placed_at_s=self._clock.wall_s(),
        )
        await self._hand_over(to)

    async def _hand_over(self, kept: Span | None) -> None:
        """Give the callers time to leave all other blocks, then let go of these."""
        await asyncio.sleep(self._pace.news_s)
        self._worker.offer(*([kept] if kept else []))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._pace.leave_s):
                await self._worker.cleared()
        self._worker.clear()
        await self._holding.keep(kept)
        await self._teller.publish()

    async def _turn(self) -> bool:
        """Wait until all have heard of the move; whether it may go.

        Who comes first waits until those have said so who let it go first: two who see each other
        would both stay otherwise.
        """
        for _ in range(TURNS):
            await asyncio.sleep(self._pace.settle_s)
            if await self._may_move():
                return True
            if not may_move(self._teller.record.node, await self._teller.records(), yielded=True):
                return False
        return False

    async def _may_move(self) -> bool:
        return may_move(self._teller.record.node, await self._teller.records())

    async def _stay(self, reason: str) -> None:
        """Take back what was said, in the record and in one line of the log."""
        changes: dict[str, object] = {"next_start": 0, "next_stop": 0}
        if self._sits_out_until_s is not None:
            changes["placed_at_s"] = 0.0  # so that `decide` looks for another mover
        await self._teller.publish(**changes)
        _log.warning("%s %s", self._teller.record.name, reason)


def _whole(mine: NodeRecord, records: list[NodeRecord]) -> bool:
    """Whether all blocks of this node's model are held."""
    same = [
        record
        for record in records
        if (record.fingerprint, record.dtype) == (mine.fingerprint, mine.dtype)
    ]
    return swarm_throughput(same, blocks=mine.blocks) > 0


def _yield_to_all() -> None:
    """This thread computes when nobody else does; elsewhere than on Linux it is one like others."""
    if sys.platform == "linux":  # where a thread has a niceness of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def _common(one: Span, other: Span) -> Span | None:
    """The blocks of both."""
    start, stop = max(one.start, other.start), min(one.stop, other.stop)
    return Span(start, stop) if start < stop else None
