"""How fast links are: a node that is idle sends a burst to an idle peer, now and then, one at most.

Bursts go one way at a time and are clocked here alone (`wire`'s bursts say why that cannot be
cheated). They grow until one takes long: each one opens TCP's window for the next, and a slow link
is held up for a second, not for a minute. What is told is how fast the last of them went, as if
the round trip had taken no time; but not more than twice as fast as its bytes really came, so that
a peer that is slow to answer pings makes itself no faster than that.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Protocol

from shardline.core.errors import ShardlineError
from shardline.node.links import Rates
from shardline.swarm import State
from shardline.wire import BURST_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shardline.core.clock import Clock
    from shardline.core.ids import NodeId
    from shardline.node.links import Links
    from shardline.node.worker import Worker
    from shardline.swarm import NodeRecord

__all__ = ["PROBE_S", "Board", "Prober", "measure_rates"]

PROBE_S = 30.0
"""Between two looks whether somebody is to be measured, give or take a half. Shorter knows a new
swarm sooner; bursts to one node are hours apart in any case (`links`)."""
BURSTS_BYTES = (BURST_BYTES_MAX // 16, BURST_BYTES_MAX // 4, BURST_BYTES_MAX)
LONG_MS = 250.0
"""A burst that takes this long beside two round trips is the last: the next would hold up others
for a second."""
ANSWER_S = 20.0
"""All bursts of a peer together."""
PINGS = 3
"""Before the bursts; the quickest is the round trip."""
IDLE_LOAD = 0.02
"""A node that computed more than this in its last seconds is left alone."""


class Board(Protocol):
    """What clocks pings and bursts; wire's Switchboard."""

    async def ping(self, peer: NodeId) -> float:
        """The round trip in ms."""
        ...

    async def burst(self, peer: NodeId, *, up_bytes: int = 0, down_bytes: int = 0) -> float | None:
        """Milliseconds until all has come, a round trip included; None: not now."""
        ...


async def measure_rates(board: Board, peer: NodeId) -> Rates | None:
    """How fast the link to this peer is, both ways; None if it has no time or does not answer."""
    try:
        async with asyncio.timeout(ANSWER_S):
            rtt_ms = min([await board.ping(peer) for _ in range(PINGS)])
            up = await _climb(rtt_ms, lambda size: board.burst(peer, up_bytes=size))
            if up is None:
                return None
            down = await _climb(rtt_ms, lambda size: board.burst(peer, down_bytes=size))
    except (TimeoutError, ShardlineError):
        return None
    return None if down is None else Rates.of(up, down)


async def _climb(rtt_ms: float, burst: Callable[[int], Awaitable[float | None]]) -> float | None:
    """The last burst's rate in kbit/s, which are bits a millisecond."""
    rate = 0.0
    for size in BURSTS_BYTES:
        took_ms = await burst(size)
        if took_ms is None:
            return None
        rate = 8 * size / max(took_ms - rtt_ms, took_ms / 2, 1e-3)
        if took_ms >= LONG_MS + 2 * rtt_ms:
            break
    return rate


class Prober:
    """Measures rates while the node has nothing better to do; one link at a time."""

    def __init__(  # noqa: PLR0913  (ports first, then the edges of its world)
        self,
        board: Board,
        links: Links,
        records: Callable[[], Awaitable[list[NodeRecord]]],
        worker: Worker,
        *,
        pause_s: float,
        clock: Clock,
    ) -> None:
        self._board = board
        self._links = links
        self._records = records
        self._worker = worker
        self._pause_s = pause_s
        self._clock = clock

    async def run(self) -> None:
        """Until cancelled. A pause without a step is what idle means here."""
        while True:
            steps = self._worker.tally.steps
            await asyncio.sleep(self._pause_s * random.uniform(0.5, 1.5))  # noqa: S311
            if self._worker.tally.steps == steps and not self._worker.queue:
                await self.turn()

    async def turn(self) -> None:
        """Measure whoever is due, if anybody is."""
        idle = {
            record.node
            for record in await self._records()
            if record.state is State.READY and record.load < IDLE_LOAD and not record.queue
        }
        peer = self._links.due(idle, self._clock.monotonic_s())
        if peer is not None:
            rates = await measure_rates(self._board, peer)
            self._links.asked(peer, rates, self._clock.monotonic_s())
