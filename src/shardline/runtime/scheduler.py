"""Which steps the engine takes next: of sessions that write, and a part of those that read.

A step of one token is somebody's next word, so it never waits for a prompt: each round takes all of
these, or the first so many if its owner says so, and beside them pieces of longer steps up to a
number of tokens, the session that waited longest first. Like the engine it never waits and looks at
no clock.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shardline.core.errors import ShardlineError

if TYPE_CHECKING:
    from shardline.core.ids import Seat
    from shardline.model import AnyCrossing, Returned
    from shardline.runtime.engine import SpanEngine

    Found = AnyCrossing | Returned | ShardlineError

__all__ = ["Scheduler"]

ROUND_TOKENS = 128
"""Tokens of longer steps in a round. More reads prompts faster, and lets writers wait longer; fewer
make reading dear, since each round reads all weights. A session that is alone here is not cut."""


@dataclass(slots=True)
class _Waiting:
    whole: AnyCrossing
    rest: list[AnyCrossing] = field(default_factory=list["AnyCrossing"])
    """Pieces that are still to be run, once it was cut."""
    done: list[AnyCrossing | Returned] = field(default_factory=list["AnyCrossing | Returned"])


class Scheduler:
    """Steps that wait for the engine, one a session; not thread-safe."""

    def __init__(self, engine: SpanEngine) -> None:
        self._engine = engine
        self._waiting: OrderedDict[Seat, _Waiting] = OrderedDict()
        self.last_seats: tuple[Seat, ...] = ()
        """Whose steps, or pieces of them, the last round ran."""
        self.last_tokens = 0
        """And of how many tokens they were."""

    def __len__(self) -> int:
        """Steps that wait."""
        return len(self._waiting)

    def add(self, seat: Seat, crossing: AnyCrossing) -> None:
        """Let a session's step wait; a session has one step at a time."""
        self._waiting[seat] = _Waiting(crossing)

    def drop(self, seat: Seat) -> None:
        """Forget a session's step, begun or not; none is no matter."""
        self._waiting.pop(seat, None)

    @property
    def writers(self) -> int:
        """Steps of one token that wait."""
        return sum(waiting.whole.tokens == 1 for waiting in self._waiting.values())

    def round(self, *, now_s: float, writers: int | None = None) -> list[tuple[Seat, Found]]:
        """Run one round; the steps that are over now, with what came out.

        It takes the first so many steps of one token; None is all.
        """
        taken = self._next(writers)
        self.last_seats = tuple(seat for seat, _ in taken)
        self.last_tokens = sum(crossing.batch * crossing.tokens for _, crossing in taken)
        found = self._engine.steps(taken, now_s=now_s)
        over: list[tuple[Seat, Found]] = []
        for (seat, _), result in zip(taken, found, strict=True):
            waiting = self._waiting[seat]
            if isinstance(result, ShardlineError) or not (waiting.rest or waiting.done):
                over.append((seat, result))
            else:
                waiting.done.append(result)
                if waiting.rest:
                    self._waiting.move_to_end(seat)  # others first, then its next piece
                    continue
                over.append((seat, self._engine.joined(seat, waiting.whole, waiting.done)))
            del self._waiting[seat]
        return over

    def _next(self, writers: int | None) -> list[tuple[Seat, AnyCrossing]]:
        """What the next round runs."""
        writes = [
            (seat, waiting.whole)
            for seat, waiting in self._waiting.items()
            if waiting.whole.tokens == 1
        ]
        reads: list[tuple[Seat, AnyCrossing]] = []
        budget = ROUND_TOKENS
        for seat, waiting in self._waiting.items():
            if waiting.whole.tokens == 1:
                continue
            if not waiting.rest:
                waiting.rest = self._cut(seat, waiting.whole)
            tokens = waiting.rest[0].batch * waiting.rest[0].tokens
            if reads and tokens > budget:
                break
            reads.append((seat, waiting.rest.pop(0)))
            budget -= tokens
        return [*writes[:writers], *reads]

    def _cut(self, seat: Seat, whole: AnyCrossing) -> list[AnyCrossing]:
        if self._engine.report().sessions == 1:
            return [whole]
        return self._engine.pieces(seat, whole, max(1, ROUND_TOKENS // whole.batch))
