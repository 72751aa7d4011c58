"""Rounds that wait a moment: for whom, until when, and what ends it. The engine's time is ours."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from shardline.core.errors import CacheFull, SessionUnknown
from shardline.core.ids import Seat, SessionId
from shardline.core.spans import Span
from shardline.model import Crossing, StageCrossing
from shardline.node.gathering import PATIENCE
from shardline.node.rounds import Computed, Rounds
from shardline.node.seats import Arrived, SeatState
from shardline.node.tally import Tally
from shardline.node.wiring import Wiring
from shardline.wire import Step
from tests.unit.node.test_worker import CALLER, NEXT, OTHER, Clock, Engine, Thread, inputs, rest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shardline.core.errors import ShardlineError
    from shardline.core.ids import NodeId
    from shardline.model import AnyCrossing, Returned
    from shardline.node.wiring import Written
    from shardline.runtime import SpanEngine

pytestmark = pytest.mark.anyio

SPAN = Span(2, 4)
ONE, TWO = (Seat(SessionId(digit * 32), 2) for digit in "12")
DEADLINE_S = 60.0
ROUND_S = 1.0
PAUSE_S = 0.01


@dataclass
class Slow(Engine):
    """Each round takes ROUND_S of the world's clock."""

    clock: Clock = field(default_factory=Clock)
    rounds: list[int] = field(default_factory=list[int])
    """How many steps were in each."""

    def steps(
        self, asked: Sequence[tuple[Seat, Crossing]], *, now_s: float
    ) -> list[Crossing | ShardlineError]:
        self.clock.now_s += ROUND_S
        self.rounds.append(len(asked))
        return super().steps(asked, now_s=now_s)


@dataclass
class World:
    rounds: Rounds
    engine: Slow
    thread: Thread
    clock: Clock

    def ask(
        self, seat: Seat, *, behind: int = 0, to: NodeId | None = None
    ) -> asyncio.Task[Computed]:
        """A step of this seat, which sends to that node; from a round with others behind it."""
        step = Step(seat.session, SPAN.start, 0, CALLER, [], behind=behind)
        state = SeatState(CALLER, SPAN, to, 0)
        return asyncio.create_task(self.rounds.run(seat, state, Arrived(OTHER, step, inputs(0))))

    async def together(self, *seats: Seat) -> None:
        """One round with a step of each, whose results leave at its end."""
        self.thread.waits = True
        asked = [self.ask(seat) for seat in seats]
        await rest()
        self.thread.waits = False
        self.thread.work()
        await asyncio.gather(*asked)


class Stages(Slow):
    """Runs steps of a graph."""

    def pieces(self, seat: Seat, crossing: StageCrossing, tokens: int) -> list[StageCrossing]:
        del seat, tokens
        return [crossing]

    def steps_of(self, crossing: Any) -> Any:
        return crossing


async def made_world(
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Slow] = Slow,
    read: Callable[[Any], AnyCrossing] = Crossing.from_tree,
) -> World:
    """Two sessions that came back PAUSE_S after each of two results."""
    clock, thread = Clock(), Thread()
    timer = SimpleNamespace(perf_counter=clock.monotonic_s)
    monkeypatch.setattr("shardline.node.rounds.time", timer)
    engine = kind(seats={ONE, TWO}, clock=clock)
    rounds = Rounds(cast("SpanEngine", engine), thread, clock, Tally(), read)
    made = World(rounds, engine, thread, clock)
    for _ in range(3):
        await made.together(ONE, TWO)
        clock.now_s += PAUSE_S
    return made


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """They wrote with each other."""
    made = await made_world(monkeypatch)
    assert made.engine.rounds == [2, 2, 2]
    return made


async def test_a_round_begins_with_who_always_comes_right_after(world: World) -> None:
    first = world.ask(ONE)
    await rest()
    assert world.engine.rounds == [2, 2, 2]
    second = world.ask(TWO)
    await asyncio.wait_for(asyncio.gather(first, second), DEADLINE_S)
    assert world.engine.rounds == [2, 2, 2, 2]


async def test_who_comes_too_late_is_not_waited_for(world: World) -> None:
    first = world.ask(ONE)
    await rest()
    world.clock.now_s += PAUSE_S
    await asyncio.wait_for(first, DEADLINE_S)  # a timer of the real loop asks again
    assert world.engine.rounds == [2, 2, 2, 1]


async def test_who_left_is_not_waited_for(world: World) -> None:
    first = world.ask(ONE)
    await rest()
    world.rounds.drop(TWO)
    await asyncio.wait_for(first, DEADLINE_S)
    assert world.engine.rounds == [2, 2, 2, 1]


async def test_a_step_that_waits_for_others_may_be_dropped(world: World) -> None:
    first = world.ask(ONE)
    await rest()
    world.rounds.drop(ONE)
    with pytest.raises(SessionUnknown):
        await asyncio.wait_for(first, DEADLINE_S)
    await rest()
    assert world.engine.rounds == [2, 2, 2]
    await asyncio.wait_for(world.ask(TWO), DEADLINE_S)


async def test_a_session_that_is_alone_is_run_at_once(world: World) -> None:
    world.rounds.drop(TWO)
    for _ in range(3):
        asked = world.ask(ONE)
        await rest()
        assert asked.done()
        world.clock.now_s += PAUSE_S


async def test_a_round_waits_for_steps_that_were_announced(world: World) -> None:
    for seat in (ONE, TWO):
        world.rounds.drop(seat)  # nobody is known, so nobody is waited for
    first = world.ask(ONE, behind=1)
    await rest()
    assert not first.done()
    second = world.ask(TWO)
    await asyncio.wait_for(asyncio.gather(first, second), DEADLINE_S)
    assert world.engine.rounds == [2, 2, 2, 2]


async def test_what_was_announced_and_does_not_come_is_waited_for_once(world: World) -> None:
    world.rounds.drop(TWO)
    first = world.ask(ONE, behind=1)
    await rest()
    assert not first.done()
    world.clock.now_s += PATIENCE * ROUND_S
    await asyncio.wait_for(first, DEADLINE_S)
    again = world.ask(ONE)
    await rest()
    assert again.done()
    assert world.engine.rounds == [2, 2, 2, 1, 1]


async def test_results_say_how_many_of_their_round_follow_to_the_same_node(world: World) -> None:
    world.thread.waits = True
    three = Seat(SessionId("3" * 32), 2)
    world.engine.seats.add(three)
    asked = [world.ask(ONE, to=NEXT), world.ask(TWO), world.ask(three, to=NEXT)]
    await rest()
    world.thread.waits = False
    world.thread.work()
    done = await asyncio.wait_for(asyncio.gather(*asked), DEADLINE_S)
    assert [one.behind for one in done] == [1, 0, 0]


async def test_who_is_rerouted_while_results_are_written_is_still_counted_where_it_went(
    world: World,
) -> None:
    states = [SeatState(CALLER, SPAN, NEXT, 0) for _ in range(2)]

    class Rerouting(Wiring):
        """While it writes, a caller sends the other seat elsewhere."""

        def write(self, out: AnyCrossing | Returned) -> Written:
            states[1].next = OTHER
            return super().write(out)

    states[0].wiring = Rerouting()
    world.thread.waits = True
    asked = [
        asyncio.create_task(world.rounds.run(seat, state, Arrived(OTHER, step, inputs(0))))
        for seat, state in zip((ONE, TWO), states, strict=True)
        for step in [Step(seat.session, SPAN.start, 0, CALLER, [])]
    ]
    await rest()
    world.thread.waits = False
    world.thread.work()
    done = await asyncio.wait_for(asyncio.gather(*asked), DEADLINE_S)
    assert [one.behind for one in done] == [1, 0]


async def test_a_step_that_fails_is_not_said_to_follow(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gives = world.engine.steps

    def steps(asked: Sequence[tuple[Seat, Crossing]], *, now_s: float) -> list[Any]:
        found = zip(asked, gives(asked, now_s=now_s), strict=True)
        return [CacheFull("none left") if seat == TWO else what for (seat, _), what in found]

    monkeypatch.setattr(world.engine, "steps", steps)
    world.thread.waits = True
    asked = [world.ask(ONE, to=NEXT), world.ask(TWO, to=NEXT)]
    await rest()
    world.thread.waits = False
    world.thread.work()
    one, two = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(two, CacheFull)
    assert isinstance(one, Computed)
    assert one.behind == 0


async def test_nothing_is_kept_of_a_step_whose_seat_was_left_before(world: World) -> None:
    left = SeatState(CALLER, SPAN, None, 0)
    left.close()
    for seat in (ONE, TWO):
        world.rounds.drop(seat)
    step = Step(ONE.session, SPAN.start, 0, CALLER, [])
    with pytest.raises(SessionUnknown):
        await world.rounds.run(ONE, left, Arrived(OTHER, step, inputs(0)))
    assert world.engine.rounds == [2, 2, 2]


async def test_steps_of_a_graph_wait_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    world = await made_world(monkeypatch, Stages, lambda _: StageCrossing(SPAN.start, {}))
    first = world.ask(ONE)
    await rest()
    assert first.done()
    assert world.engine.rounds == [1] * 7
