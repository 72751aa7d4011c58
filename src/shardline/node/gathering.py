"""When a round begins, and with how many: at once, or a moment later with those who are on their
way; with all that wait, or with a part of them where the others can run while these are away.

A round of few steps reads as many weights as one of many. But the results of a round leave one
after the other, and their sessions come back as they left: a round that begins with whoever is
first runs almost empty while the others come, and the next begins with these. Sessions then fall
into groups that take turns for good. So a round waits for those who come back soon, as far as that
costs less than the round which it spares. Who is alone never waits.

Sessions that all run together here are all away together too: while other nodes of their chain
compute, this one idles, and then those do. So where they are away for as long as the chain's
slowest node takes for a round, two groups of them are served in the time of one, or more groups
where they are away for longer. The chain's first node tries now and then whether all at once is
quicker all the same (`trying.py`). A group that another node sends on is told of by its first step,
and stays together.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import ceil, inf
from statistics import median
from typing import TYPE_CHECKING

from shardline.node.trying import Trying

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardline.core.ids import NodeId, Seat

__all__ = ["Gathering"]

PATIENCE = 0.5
"""Of the quickest of the last rounds' time, as much as any round waits. More gathers sessions whose
callers are slower to answer; less costs less where they do not come."""
LATE = 2.0
"""Times its usual pause, a session is not waited for any more."""
ROUNDS = 128
"""How many are the last ones."""
STRAYS = 16
"""Rounds without all of those who are to come together, until all are waited for once more."""
EARLY = 0.25
"""Of the slowest node's round, as much as sessions may be away for less than it and be put into one
more group: a round of fewer is quicker too."""


@dataclass(slots=True)
class _Known:
    """One session: since when its last result is gone, and how soon it came back before."""

    came_s: float | None = None
    """When its last step came."""
    left_s: float | None = None
    """None while its step waits or runs."""
    pauses_s: tuple[float, float] | None = None
    """The last two."""
    slowest_s: float = 0.0
    """What its last token took on the slowest node of its chain; 0 is not known."""

    def takes_part(self, now_s: float, anybody_s: float) -> bool:
        """Whether it is here, or not away for longer than it was before, or else than anybody."""
        if self.left_s is None:
            return True
        return now_s - self.left_s < LATE * max(self.pauses_s or (anybody_s,))

    def groups(self, round_s: float) -> int:
        """In how many groups sessions such as this one are served best, if a round takes that."""
        if self.pauses_s is None or not round_s:
            return 1
        slowest_s = max(self.slowest_s, round_s)
        return max(1, int((min(self.pauses_s) + round_s) / slowest_s + EARLY))


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
        self._latest_s = 0.0
        """Until when it waits at most."""
        self._group = 0
        """How many the next round had better be of; 0 is all that wait."""
        self._counted = 0
        """Of how many sessions that was reckoned."""
        self._early_s: dict[float, float] = {}
        """By when sessions left together: how much earlier than usual the last of them came back.
        Whoever is still away is then expected as much earlier."""
        self._behind: dict[NodeId, int] = {}
        """Steps that come right behind the last one of a node."""
        self._wave = 0
        """How many came together last, from another node."""
        self._trying = Trying()
        self._active = 0
        """How many took part when groups were last reckoned."""
        self._parted = False
        """Not all run in one round, or only as that is tried."""
        self._rallied = 0
        """Up to which change of ways all were waited for."""
        self._strays = 0
        """Rounds since then that some were not in, though all were to be."""

    def came(
        self, seat: Seat, now_s: float, *, slowest_s: float = 0.0, first: bool = False
    ) -> None:
        """A step of this session waits since then; what the slowest node of its chain takes, and
        whether this one is the chain's first."""
        known = self._known.setdefault(seat, _Known())
        known.slowest_s = slowest_s
        if first and self._parted and known.came_s is not None:
            self._trying.came(now_s - known.came_s, self._active)
        known.came_s = now_s
        if known.left_s is not None:
            pause_s = self._anybody_s = now_s - known.left_s
            if known.pauses_s is not None:
                self._early_s[known.left_s] = max(0.0, max(known.pauses_s) - pause_s)
            known.pauses_s = (known.pauses_s or (pause_s, pause_s))[1], pause_s
            known.left_s = None
        self._awaited.discard(seat)

    def announced(self, peer: NodeId, behind: int) -> None:
        """So many steps of other sessions come right behind the last one of this peer."""
        if peer not in self._behind:
            self._wave = behind + 1
        self._behind[peer] = behind
        if not behind:
            del self._behind[peer]

    def left(self, seat: Seat, now_s: float) -> None:
        """A result is on its way to whoever sends this session's next step; unless it never came
        here, as what runs alone does not."""
        if seat in self._known:
            self._known[seat].left_s = now_s

    def gone(self, seat: Seat) -> None:
        """This session comes no more; none is no matter."""
        self._known.pop(seat, None)
        self._awaited.discard(seat)

    def wait_s(self, now_s: float, blocks: int) -> float:
        """How long the next round, of so many blocks, had better wait for others; 0 is not at all.

        Ask when a round could begin, and again whenever somebody came or went.
        """
        if self._until_s is None or len(self._known) != self._counted:
            self._counted = len(self._known)
            self._group = self._group_of(now_s, blocks)
        if self._until_s is None:
            patience_s = PATIENCE * blocks * min(self._took_s, default=0.0)
            changed, strayed = self._rallied != self._trying.changes, self._strays >= STRAYS
            rally = self._trying.together and (changed or strayed)
            if rally:
                self._rallied, self._strays = self._trying.changes, 0
                patience_s = max(patience_s, min(self._longest_s(now_s), self._trying.cycle_s))
            self._latest_s = now_s + patience_s
            self._until_s = self._choose(now_s, patience_s, all_of_them=rally)
        if self._behind:
            return max(0.0, self._latest_s - now_s)
        return max(0.0, self._until_s - now_s) if self._awaited else 0.0

    def most(self, waiting: int) -> int:
        """Of so many that wait, how many this round takes: all, or their part of equal ones."""
        return ceil(waiting / max(1, round(waiting / self._group))) if self._group else waiting

    def begun(self) -> None:
        """The round begins, with whoever is here."""
        here = sum(known.left_s is None for known in self._known.values())
        whole = min(here, self._group or here) >= self._active
        self._parted = not whole or self._trying.together
        self._strays += not whole
        self._awaited.clear()
        self._behind.clear()
        away = {known.left_s for known in self._known.values()}
        self._early_s = {at_s: by_s for at_s, by_s in self._early_s.items() if at_s in away}
        self._until_s = None

    def ended(self, took_s: float, blocks: int) -> None:
        """A round of so many blocks, in which nothing went wrong, took so long."""
        self._took_s.append(took_s / blocks)

    def _group_of(self, now_s: float, blocks: int) -> int:
        """The equal part of each session's groups, for those that take part."""
        usual_s = blocks * median(self._took_s) if self._took_s else 0.0
        active = self._taking_part(now_s)
        group = ceil(sum(1 / known.groups(usual_s) for known in active) - 1e-9)
        self._active = len(active)
        return len(active) if self._trying.together else max(group, min(self._wave, len(active)))

    def _taking_part(self, now_s: float) -> list[_Known]:
        anybody_s = self._anybody_s
        return [known for known in self._known.values() if known.takes_part(now_s, anybody_s)]

    def _longest_s(self, now_s: float) -> float:
        """How long the last of all who take part is away."""
        return max((max(one.pauses_s or (0.0,)) for one in self._taking_part(now_s)), default=0.0)

    def _choose(self, now_s: float, patience_s: float, *, all_of_them: bool = False) -> float:
        """Pick whom to wait for, and until when at most.

        Waiting costs all that are here as much time; each that comes spares its part of a round.
        Where all are to come together at last, that is not asked.
        """
        here = sum(known.left_s is None for known in self._known.values())
        until_s = latest_s = now_s
        seats: list[Seat] = []
        awaited = 0
        for due_s, given_up_s, seat in sorted(self._coming(now_s, now_s + patience_s)):
            if here + len(seats) >= self._group:
                break
            seats.append(seat)
            latest_s = max(latest_s, given_up_s)
            if all_of_them or (due_s - now_s) * here <= patience_s * len(seats):
                awaited, until_s = len(seats), latest_s
        self._awaited.update(seats[:awaited])
        return min(until_s, now_s + patience_s)

    def _coming(self, now_s: float, deadline_s: float) -> Iterator[tuple[float, float, Seat]]:
        """Who may come until then: when it should, when it is given up, and who it is."""
        for seat, known in self._known.items():
            if known.left_s is not None:
                pause_s = max(known.pauses_s or (self._anybody_s,))
                given_up_s = known.left_s + LATE * pause_s
                due_s = known.left_s + pause_s - self._early_s.get(known.left_s, 0.0)
                if due_s <= deadline_s and given_up_s > now_s:
                    yield max(due_s, now_s), given_up_s, seat
