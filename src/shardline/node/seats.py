"""A session's place at this node: in which order its steps are taken, and where they go."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shardline.core.errors import CacheFull
from shardline.node.wiring import Wiring

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from shardline.core.ids import NodeId
    from shardline.core.segments import Segment
    from shardline.core.spans import Span
    from shardline.swarm import Follower
    from shardline.wire import Spent, Step

__all__ = ["Arrived", "SeatState", "Shares"]

WANTED_S = 60.0
"""How long whoever was refused room counts as waiting for it."""


@dataclass(slots=True)
class Arrived:
    """A step as it came, and from whom."""

    peer: NodeId
    message: Step
    segments: Sequence[Segment]
    size_bytes: int = field(init=False)
    """Of its segments, and a little for itself."""

    def __post_init__(self) -> None:
        self.size_bytes = 256 + sum(map(len, self.segments))


@dataclass(slots=True)
class SeatState:
    """One seat; all its steps pass through one queue, so they keep their order."""

    caller: NodeId
    span: Span
    next: NodeId | None
    """Who gets the outputs; None is the caller."""
    next_has: int
    """The next node knows the steps before this one; replayed steps from here on go on to it."""
    cache_tokens: int = 0
    """What it reserves."""
    expected: int = 0
    """The next step to compute; what comes earlier is known, what comes later has a gap before."""
    attached: int = 0
    """Pages of a kept prefix that stand for step 0."""
    last_spent: list[Spent] = field(default_factory=list["Spent"])
    slowest_us: int = 0
    """As the caller said with the last step."""
    behind: int = 0
    """Steps of other seats that are about to follow the next one to the same node."""
    queue: asyncio.Queue[Arrived | None] = field(default_factory=asyncio.Queue["Arrived | None"])
    queued_bytes: int = 0
    sending: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by who sends to the next node: a replay goes out as one piece."""
    rerouting: int = 0
    """Reroutes that wait for it: each will send all that is noted, so nothing else need go out."""
    reroutes: int = 0
    """How often all that is noted was sent again."""
    again: int = 0
    """How often the last outputs were asked for again."""
    ahead: Follower | None = None
    """Sends the same steps to a standby."""
    patience: asyncio.Timeout | None = None
    """Of the send that is under way; a reroute ends it."""
    wiring: Wiring = field(default_factory=Wiring)
    """In which codec its outputs are written."""
    orphaned_at_s: float | None = None
    """Since when nothing was heard of the caller, once the link to it is broken."""
    closed: bool = False

    def take(self, arrived: Arrived) -> None:
        """Queue a step."""
        self.queued_bytes += arrived.size_bytes
        self.queue.put_nowait(arrived)

    async def next_step(self) -> Arrived | None:
        """The next step to take, or None once the seat is closed."""
        arrived = await self.queue.get()
        if arrived is None or self.closed:
            return None
        self.queued_bytes -= arrived.size_bytes
        return arrived

    def close(self) -> None:
        """Let whoever works at this seat stop; what is queued is dropped."""
        self.closed = True
        self.queue.put_nowait(None)
        self.give_up_sending()
        if self.ahead is not None:
            self.ahead.stop()

    def give_up_sending(self) -> None:
        """End the send that is under way, if any: its receiver is not wanted any more."""
        if self.patience is not None and not self.patience.expired():
            self.patience.reschedule(asyncio.get_running_loop().time())


class Shares:
    """Who may have how much of the cache: one caller at most half of it, while others are there.

    Others are there who hold a seat, or who found no room for one of at most that size lately.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[NodeId, float]] = []
        """The last two who found no room, and when."""

    @contextlib.contextmanager
    def at(
        self, total: int, wanted: SeatState, taken: Sequence[SeatState], now_s: float
    ) -> Generator[None]:
        """Open this seat within; raises CacheFull if it is more than its caller's share."""
        caller, asked, half = wanted.caller, wanted.cache_tokens, total // 2
        others = {state.caller for state in taken}
        others |= {who for who, at_s in self._waiting if now_s - at_s < WANTED_S}
        seats = (state for state in taken if state.caller == caller and state is not wanted)
        own = sum(state.cache_tokens for state in seats)
        if own + asked > half and others - {caller}:
            raise CacheFull(
                f"{asked} cache tokens were asked beside {own} that you hold, but while others are"
                f" here a caller gets {half} of {total}"
            )
        try:
            yield
        except CacheFull:
            if asked <= half:
                rest = [(who, at_s) for who, at_s in self._waiting if who != caller]
                self._waiting = [*rest[-1:], (caller, now_s)]
            raise
