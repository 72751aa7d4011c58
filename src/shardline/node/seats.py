"""A session's place at this node: in which order its steps are taken, and where they go."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardline.core.ids import NodeId
    from shardline.core.segments import Segment
    from shardline.core.spans import Span
    from shardline.wire import Spent, Step

__all__ = ["QUEUE_BYTES_MAX", "Arrived", "SeatState"]

QUEUE_BYTES_MAX = 2**29
"""Steps that may wait at one seat, in bytes: a whole journal is replayed in one go."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A step as it came, and from whom."""

    peer: NodeId
    message: Step
    segments: Sequence[Segment]

    @property
    def size_bytes(self) -> int:
        """Of its segments, and a little for itself."""
        return 256 + sum(memoryview(segment).nbytes for segment in self.segments)


@dataclass(slots=True)
class SeatState:
    """One seat; all its steps pass through one queue, so they keep their order."""

    caller: NodeId
    span: Span
    next: NodeId | None
    """Who gets the outputs; None is the caller."""
    fresh: bool
    """Whether the next node's cache has to be filled too, so that replayed steps go on."""
    expected: int = 0
    """The next step to compute; what comes earlier is known, what comes later has a gap before."""
    last_spent: list[Spent] = field(default_factory=list["Spent"])
    queue: asyncio.Queue[Arrived | None] = field(default_factory=asyncio.Queue["Arrived | None"])
    queued_bytes: int = 0
    sending: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by who sends to the next node: a replay goes out as one piece."""
    patience: asyncio.Timeout | None = None
    """Of the send that is under way; a reroute ends it."""
    orphaned_at_s: float | None = None
    """Since when the link to the caller is broken."""
    closed: bool = False

    def take(self, arrived: Arrived) -> bool:
        """Queue a step; False if too much is waiting already."""
        if self.queued_bytes + arrived.size_bytes > QUEUE_BYTES_MAX:
            return False
        self.queued_bytes += arrived.size_bytes
        self.queue.put_nowait(arrived)
        return True

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

    def give_up_sending(self) -> None:
        """End the send that is under way, if any: its receiver is not wanted any more."""
        if self.patience is not None:
            self.patience.reschedule(asyncio.get_running_loop().time())
