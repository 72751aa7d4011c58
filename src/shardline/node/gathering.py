"""When a round begins: at once, or a moment later, with those who are on their way.

A round of few steps reads as many weights as one of many. But the results of a round leave one
after the other, and their sessions come back as they left: a round that begins with whoever is
first runs almost empty while the others come, and the next begins with these. Sessions then fall
into groups that take turns for good. So a round waits for those who come back soon, as far as that
costs less than the round which it spares. Who is alone never waits.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardline.core.ids import Seat

__all__ = ["Gathering"]

PATIENCE = 0.5
"""Of the quickest of the last rounds' time, as much as any round waits. More gathers sessions whose
callers are slower to answer; less costs less where they do not come."""
LATE = 2.0
"""Times its usual pause, a session is not waited for any more."""
ROUNDS = 128
"""How many are the last ones."""


@dataclass(slots=True)
class _Known:
    """One session: since when its last result is gone, and how soon it came back before."""

    left_s: float | None = None
    """None while its step waits or runs."""
    pauses_s: tuple[float, float] | None = None
    """The last two."""


class Gathering:
    """Who is here, who is on the way, and how long to wait for them; looks at no clock itself."""

    def __init__(self) -> None:
        self._known: dict[Seat, _Known] = {}
        self._anybody_s = inf
        """The last pause that any session made: what is thought of those who made none."""
        self._took_s = deque[float](maxlen=ROUNDS)
        """The last rounds, for each block."""
        self._awaited: set[Seat] = set()
        self._until_s: float | None = None
        """Until when the next round waits; None before anybody asked."""

    def came(self, seat: Seat, now_s: float) -> None:
        """A step of this session waits since then."""
        known = self._known.setdefault(seat, _Known())
        if known.left_s is not None:
            pause_s = self._anybody_s = now_s - known.left_s
            known.pauses_s = (known.pauses_s or (pause_s, pause_s))[1], pause_s
            known.left_s = None
        self._awaited.discard(seat)

    def left(self, seat: Seat, now_s: float) -> None:
        """A result is on its way to whoever sends this session's next step."""
        self._known.setdefault(seat, _Known()).left_s = now_s

    def gone(self, seat: Seat) -> None:
        """This session comes no more; none is no matter."""
        self._known.pop(seat, None)
        self._awaited.discard(seat)

    def wait_s(self, now_s: float, blocks: int) -> float:
        """How long the next round, of so many blocks, had better wait for others; 0 is not at all.

        Ask when a round could begin, and again whenever somebody came or went.
        """
        if self._until_s is None:
            patience_s = PATIENCE * blocks * min(self._took_s, default=0.0)
            self._until_s = self._choose(now_s, patience_s)
        return max(0.0, self._until_s - now_s) if self._awaited else 0.0

    def begun(self) -> None:
        """The round begins, with whoever is here."""
        self._awaited.clear()
        self._until_s = None

    def ended(self, took_s: float, blocks: int) -> None:
        """A round of so many blocks, in which nothing went wrong, took so long."""
        self._took_s.append(took_s / blocks)

    def _choose(self, now_s: float, patience_s: float) -> float:
        """Pick whom to wait for, and until when at most.

        Waiting costs all that are here as much time; each that comes spares its part of a round.
        """
        here = sum(known.left_s is None for known in self._known.values())
        until_s = now_s
        given_up: list[float] = []
        seats: list[Seat] = []
        for due_s, given_up_s, seat in sorted(self._coming(now_s, now_s + patience_s)):
            seats.append(seat)
            given_up.append(given_up_s)
            if (due_s - now_s) * here <= patience_s * len(seats):
                self._awaited.update(seats)
                until_s = max(until_s, *given_up)
        return min(until_s, now_s + patience_s)

    def _coming(self, now_s: float, deadline_s: float) -> Iterator[tuple[float, float, Seat]]:
        """Who may come until then: when it should, when it is given up, and who it is."""
        for seat, known in self._known.items():
            if known.left_s is not None:
                pause_s = max(known.pauses_s or (self._anybody_s,))
                due_s, given_up_s = known.left_s + pause_s, known.left_s + LATE * pause_s
                if due_s <= deadline_s and given_up_s > now_s:
                    yield max(due_s, now_s), given_up_s, seat
