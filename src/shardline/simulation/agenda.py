"""Virtual time: what happens when, in an order that the seed alone decides."""

from __future__ import annotations

import heapq
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TICK_S", "Agenda"]

TICK_S = 0.02
"""Time's grain: what arrives within a tick arrives together. Finer is slower, and tells no more
where round trips are tens of milliseconds."""


class Agenda:
    """Happenings by tick; those of one tick in the order in which they were put down."""

    def __init__(self) -> None:
        self.tick = 0
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._trace = blake2b(digest_size=8)

    @property
    def now_s(self) -> float:
        """Seconds since the world began."""
        return self.tick * TICK_S

    @property
    def trace(self) -> str:
        """A hash of all that was noted: equal for equal runs."""
        return self._trace.hexdigest()

    def at(self, tick: int, happening: Callable[[], None]) -> None:
        """Let this happen at a tick, or now if that is over."""
        heapq.heappush(self._heap, (max(tick, self.tick), self._count, happening))
        self._count += 1

    def after(self, wait_s: float, happening: Callable[[], None]) -> None:
        """Let this happen in so many seconds, rounded up to a tick."""
        self.at(self.tick + max(1, round(wait_s / TICK_S)), happening)

    def note(self, *words: object) -> None:
        """Write down what happened, for the trace."""
        self._trace.update(f"{self.tick} {words}\n".encode())

    def run(self, until_s: float) -> None:
        """Let everything happen up to this time."""
        last = round(until_s / TICK_S)
        while self._heap and self._heap[0][0] <= last:
            self.tick, _, happening = heapq.heappop(self._heap)
            happening()
        self.tick = last
