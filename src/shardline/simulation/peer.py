"""One simulated member: the swarm's own code, as a `step(event, now) -> actions` without I/O.

What it hears goes through the swarm's `View`; where it goes, and when, is decided by `choose_span`,
`best_move` and `may_move` over the records that it has seen, which may be old or incomplete.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, assert_never

import msgspec

from shardline.swarm import (
    SETTLE_S,
    TURN_S,
    Changed,
    Joined,
    Left,
    Move,
    NodeRecord,
    State,
    View,
    best_move,
    choose_span,
    may_move,
    renew,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardline.core.ids import NodeId
    from shardline.core.spans import Span

__all__ = [
    "Action",
    "Event",
    "Machine",
    "Peer",
    "Planner",
    "Publish",
    "Wake",
    "Withdraw",
    "substance",
]

THINK_S = 60.0
"""How often a node asks itself whether it should move."""
DRAIN_S = 5.0
"""How long a leaving node finishes what is under way."""
PLANS_MAX = 4_096


class Event(Enum):
    """What can happen to a member beside hearing of others."""

    START = "start"
    LOADED = "loaded"
    THINK = "think"
    SETTLED = "settled"
    BROUGHT = "brought"
    STOP = "stop"
    DRAINED = "drained"


@dataclass(frozen=True, slots=True)
class Publish:
    """Put this record into the directory."""

    record: NodeRecord


@dataclass(frozen=True, slots=True)
class Wake:
    """Step with this event in so many seconds."""

    wait_s: float
    event: Event


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Leave."""


Action = Publish | Wake | Withdraw
News = Joined | Changed | Left | None


@dataclass(frozen=True, slots=True)
class Machine:
    """What stays when a process ends."""

    number: int
    node: NodeId
    fits: int
    """Blocks that its memory has room for."""
    block_steps_per_s: float
    load_block_s: float
    """Seconds to load one block's weights."""
    skew_s: float
    """How far its clock is ahead of the world's."""
    links: dict[NodeId, float]


class Planner:
    """`best_move`, remembered: it is pure, so members that see the same need it worked out once."""

    def __init__(self) -> None:
        self._plans: dict[tuple[int, int], tuple[NodeId, Move] | None] = {}

    def plan(
        self, content: int, mine: NodeRecord, seen: Iterable[NodeRecord], now_s: float
    ) -> tuple[NodeId, Move] | None:
        """The swarm's next move for one that sees this `content`, a hash of `seen`."""
        key = (content, int(now_s // TURN_S))
        if key not in self._plans:
            if len(self._plans) >= PLANS_MAX:
                self._plans.clear()
            self._plans[key] = best_move(
                seen,
                blocks=mine.blocks,
                fingerprint=mine.fingerprint,
                dtype=mine.dtype,
                now_s=now_s,
            )
        return self._plans[key]


class Peer:
    """One process of one machine, from its start to its end."""

    def __init__(self, machine: Machine, run: str, template: NodeRecord, planner: Planner) -> None:
        self.machine = machine
        self.run = run
        self.view = View(set())
        self.seen: dict[NodeId, NodeRecord] = {}
        """What watching the directory has told, our own record included."""
        self.runs: dict[NodeId, str] = {}
        """The last life that was heard of each node."""
        self.record: NodeRecord | None = None
        self._template = template
        self._planner = planner
        self._content = 0
        self._marks: dict[NodeId, int] = {}

    def hear_life(self, node: NodeId, run: str, now_s: float) -> None:
        """A process of this node lives."""
        self.view.hear_life(node, run)
        self.runs[node] = run
        self._learn(node, now_s)

    def hear_death(self, node: NodeId, run: str, now_s: float) -> None:
        """A process of this node is gone."""
        self.view.hear_death(node, run)
        if self.runs.get(node) == run:
            del self.runs[node]
        self._learn(node, now_s)

    def hear_record(self, record: NodeRecord, mark: int, now_s: float) -> None:
        """A record arrived that was checked on its way; `mark` is its `substance`."""
        own_s = now_s + self.machine.skew_s
        self.view.hear_opened(record.node, record, own_s)
        self._tell(self.view.news(record.node, own_s), record, mark)

    def hear_newcomer(self, record: NodeRecord, mark: int, run: str, now_s: float) -> None:
        """A process lives, and this is its record: both at once."""
        self.view.hear_life(record.node, run)
        self.runs[record.node] = run
        self.hear_record(record, mark, now_s)

    def step(self, event: Event, now_s: float) -> list[Action]:  # noqa: PLR0911 - a table
        """What to do now."""
        match event:
            case Event.START:
                return self._start(now_s)
            case Event.LOADED:
                return [self._publish(now_s, state=State.READY), Wake(THINK_S, Event.THINK)]
            case Event.THINK:
                return [*self._think(now_s), Wake(THINK_S, Event.THINK)]
            case Event.SETTLED:
                return self._go(now_s)
            case Event.BROUGHT:
                return self._arrive(now_s)
            case Event.STOP:
                return [self._publish(now_s, state=State.LEAVING), Wake(DRAIN_S, Event.DRAINED)]
            case Event.DRAINED:
                return [Withdraw()]
            case _:
                assert_never(event)

    def _start(self, now_s: float) -> list[Action]:
        blocks = self._template.blocks
        span = choose_span(self.seen.values(), blocks=blocks, fits=self.machine.fits)
        publish = self._publish(
            now_s,
            state=State.LOADING,
            start=span.start,
            stop=span.stop,
            placed_at_s=now_s + self.machine.skew_s,
        )
        return [publish, Wake(self._load_s(span, None), Event.LOADED)]

    def _think(self, now_s: float) -> list[Action]:
        mine = self.record
        if mine is None or mine.state is not State.READY or mine.moves_to is not None:
            return []
        own_s = now_s + self.machine.skew_s
        chosen = self._planner.plan(self._content, mine, self.seen.values(), own_s)
        if chosen is None or chosen[0] != mine.node:
            return []
        to = chosen[1].span
        publish = self._publish(now_s, next_start=to.start, next_stop=to.stop)
        return [publish, Wake(SETTLE_S, Event.SETTLED)]

    def _go(self, now_s: float) -> list[Action]:
        to = self.record.moves_to if self.record else None
        if self.record is None or to is None or self.record.state is not State.READY:
            return []
        if not may_move(self.record.node, self.seen.values()):
            return [self._publish(now_s, next_start=0, next_stop=0)]
        return [Wake(self._load_s(to, self.record.span), Event.BROUGHT)]

    def _arrive(self, now_s: float) -> list[Action]:
        to = self.record.moves_to if self.record else None
        if self.record is None or to is None or self.record.state is not State.READY:
            return []
        if not may_move(self.record.node, self.seen.values()):
            return [self._publish(now_s, next_start=0, next_stop=0)]
        placed = now_s + self.machine.skew_s
        return [
            self._publish(
                now_s,
                start=to.start,
                stop=to.stop,
                next_start=0,
                next_stop=0,
                placed_at_s=placed,
            )
        ]

    def _publish(self, now_s: float, **changes: object) -> Publish:
        changed = msgspec.structs.replace(self.record or self._template, **changes)
        life_s = self._template.expires_at_s - self._template.issued_at_s
        self.record = renew(changed, now_s=now_s + self.machine.skew_s, life_s=life_s)
        self._see(self.record, substance(self.record))
        return Publish(self.record)

    def _load_s(self, span: Span, held: Span | None) -> float:
        """Blocks that are held already need not be loaded."""
        kept = 0
        if held is not None:
            kept = max(0, min(span.stop, held.stop) - max(span.start, held.start))
        return self.machine.load_block_s * (len(span) - kept)

    def _learn(self, node: NodeId, now_s: float) -> None:
        self._tell(self.view.news(node, now_s + self.machine.skew_s))

    def _tell(self, news: News, heard: NodeRecord | None = None, mark: int = 0) -> None:
        """Take in what is new, as one who watches the directory does."""
        if isinstance(news, Left):
            node = news.record.node
            del self.seen[node]
            self._content ^= self._marks.pop(node, 0)
        elif news is not None:
            record = news.record
            self._see(record, mark if record is heard else substance(record))

    def _see(self, record: NodeRecord, mark: int) -> None:
        node, marks = record.node, self._marks
        self.seen[node] = record
        self._content ^= marks.get(node, 0) ^ mark
        marks[node] = mark


def substance(record: NodeRecord) -> int:
    """A hash of all that can change in a simulated record and that a plan depends on."""
    return hash(
        (
            record.node,
            record.start,
            record.stop,
            record.state.value,
            record.next_start,
            record.next_stop,
            record.placed_at_s,
        )
    )
