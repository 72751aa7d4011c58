"""The worker against a scripted engine, thread, post and clock: no sockets, weights or waits."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch

from shardline.codec import pack, unpack
from shardline.core.errors import (
    CacheFull,
    NodeLost,
    PeerFault,
    SessionUnknown,
    ShardlineError,
    StepFailed,
)
from shardline.core.ids import NodeId, Seat, SessionId
from shardline.core.spans import Span
from shardline.model import Call, Crossing
from shardline.node import outbox, worker
from shardline.node.outbox import AGAIN_MAX
from shardline.node.seats import WANTED_S
from shardline.node.tasks import UNDER_WAY_MAX
from shardline.node.worker import ORPHAN_S, SEATS_MAX, STRANGERS_TOLD_PER_S, Duty, Worker
from shardline.runtime import EngineReport, Named
from shardline.wire import EVERY_STEP, Close, Failed, Open, Opened, Reroute, Result, Step

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from shardline.core.segments import Segment
    from shardline.runtime import SpanEngine
    from shardline.wire import Message

pytestmark = pytest.mark.anyio

ME, CALLER, NEXT, OTHER, STRANGER = (NodeId(digit * 64) for digit in "0cdef")
ONE = SessionId("1" * 32)
DEADLINE_S = 10.0
TOTAL = 100_000
"""The engine's cache tokens."""
ROUNDS = 200
"""Turns of the event loop after which whatever can go on without us has gone on."""


@dataclass
class Post:
    """Keeps what is sent; peers may be out of reach, or their links so full that a send waits."""

    sent: list[tuple[NodeId, Message, list[bytes]]] = field(default_factory=list[Any])
    dead: set[NodeId] = field(default_factory=set[NodeId])
    stuck: set[NodeId] = field(default_factory=set[NodeId])
    freed: asyncio.Event = field(default_factory=asyncio.Event)
    """Lets the sends go on that are stuck."""
    hung_up: list[NodeId] = field(default_factory=list[NodeId])

    async def send(self, peer: NodeId, message: Message, segments: Sequence[Segment] = ()) -> None:
        if peer in self.stuck:
            await self.freed.wait()
        if peer in self.dead:
            raise NodeLost(f"no way to {peer[:4]}")
        self.sent.append((peer, message, [bytes(segment) for segment in segments]))

    def send_now(self, peer: NodeId, message: Message, segments: Sequence[Segment] = ()) -> bool:
        if peer in self.stuck | self.dead:
            return False
        self.sent.append((peer, message, [bytes(segment) for segment in segments]))
        return True

    def hang_up(self, peer: NodeId, error: ShardlineError) -> None:
        del error
        self.hung_up.append(peer)

    def to(self, peer: NodeId, kind: type[Message]) -> list[Any]:
        return [word for whom, word, _ in self.sent if whom == peer and isinstance(word, kind)]

    def outputs_to(self, peer: NodeId) -> list[int]:
        """What the steps were that reached a peer, by what they carry."""
        bodies = (body for whom, word, body in self.sent if whom == peer and _carries(word))
        return [_what(body) for body in bodies]


@dataclass
class Engine:
    """Gives the number that it gets, plus a hundred; keeps what it was asked."""

    seats: set[Seat] = field(default_factory=set[Seat])
    steps_done: list[int] = field(default_factory=list[int])
    fails: Exception | None = None
    idle: list[Seat] = field(default_factory=list[Seat])
    free: int = 1_000
    kept: set[tuple[str, bytes]] = field(default_factory=set[tuple[str, bytes]])
    attached: list[int] = field(default_factory=list[int])

    def open(  # noqa: PLR0913  (as the real one)
        self, seat: Seat, span: Span, *, rows: int, tokens: int, now_s: float, named: Named
    ) -> int:
        del span, rows, now_s
        assert seat not in self.seats, "opened twice"
        if tokens > self.free:
            raise CacheFull(f"{tokens} cache tokens were asked, {self.free} are free")
        self.seats.add(seat)
        return len([digest for digest in named.digests if (named.owner, digest) in self.kept])

    def attach(self, seat: Seat, pages: int) -> None:
        if seat not in self.seats or pages > len(self.kept):
            raise SessionUnknown(f"{pages} kept pages cannot be attached here")
        self.attached.append(pages)

    def steps_of(self, crossing: Crossing) -> Crossing:
        self.steps_done.append(int(crossing.carried[0].item()))
        return crossing.after(crossing.start + 1, (crossing.carried[0] + 100,))

    def steps(
        self, asked: Sequence[tuple[Seat, Crossing]], *, now_s: float
    ) -> list[Crossing | ShardlineError]:
        del now_s
        assert {seat for seat, _ in asked} <= self.seats
        if isinstance(self.fails, ShardlineError):
            return [self.fails] * len(asked)
        if self.fails is not None:
            raise self.fails
        return [self.steps_of(crossing) for _, crossing in asked]

    def close(self, seat: Seat) -> None:
        self.seats.discard(seat)

    def report(self) -> EngineReport:
        return EngineReport(len(self.seats), TOTAL, TOTAL)

    def expire(self, now_s: float) -> list[Seat]:
        del now_s
        for seat in self.idle:
            self.close(seat)
        return self.idle


class Thread(Executor):
    """The engine's thread: works at once, or in its order when told to."""

    def __init__(self) -> None:
        self.waits = False
        self._works: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._works.append((future, lambda: fn(*args, **kwargs)))
        if not self.waits:
            self.work()
        return future

    def work(self) -> None:
        works, self._works = self._works, []
        for future, work in works:
            try:
                future.set_result(work())
            except Exception as error:  # noqa: BLE001  (a task's supervisor, as the real one)
                future.set_exception(error)


@dataclass
class Clock:
    now_s: float = 1_000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s


@dataclass
class World:
    worker: Worker
    post: Post
    engine: Engine
    thread: Thread
    clock: Clock

    async def hear(self, message: Message, number: int = 0, *, by: NodeId = CALLER) -> None:
        """The worker gets this, and does what it can."""
        self.worker.on_message(by, message, inputs(number) if isinstance(message, Step) else ())
        await rest()

    async def open(self, **changes: Any) -> None:
        await self.hear(opening(**changes))
        self.post.sent.clear()

    async def steps(self, *numbers: int, replay: bool = False) -> None:
        for number in numbers:
            await self.hear(step(number, replay=replay), number)

    def failures(self, whom: NodeId = CALLER) -> list[tuple[str, int | None]]:
        return [(word.kind, word.step) for word in self.post.to(whom, Failed)]


async def rest() -> None:
    """Until nothing goes on any more: there are no threads and no sockets to wait for."""
    for _ in range(ROUNDS):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def at_work() -> AsyncGenerator[World]:
    """A worker; in the end it leaves its seats, no task stays, and the engine is empty."""
    post, engine, thread, clock = Post(), Engine(), Thread(), Clock()
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        work = Worker(
            cast("SpanEngine", engine),
            Duty(ME, "print", Span(2, 4)),
            post=post,
            thread=thread,
            clock=clock,
            spawn=tasks.create_task,
        )
        yield World(work, post, engine, thread, clock)
        work.close()
        thread.waits = False
        thread.work()
    assert engine.seats == set()


def opening(**changes: Any) -> Open:
    usual: dict[str, Any] = {"session": ONE, "caller": CALLER, "model": "print", "start": 2}
    usual |= {"stop": 4, "next": NEXT, "tokens": 64, "batch": 1}
    return Open(**(usual | changes))


def step(number: int, *, replay: bool = False, session: SessionId = ONE) -> Step:
    return Step(session, 2, number, CALLER, [], replay)


def inputs(number: int) -> list[memoryview]:
    crossing = Crossing(2, (torch.full((1, 1, 1), float(number)),), (Call((), {}),), (0, 0, 0))
    return pack(crossing.to_tree())


def _carries(word: Message) -> bool:
    return isinstance(word, Step | Result)


def _what(body: list[bytes]) -> int:
    return int(Crossing.from_tree(unpack(body)).carried[0].item())


# --- A SEAT AND ITS STEPS ---


async def test_a_seat_is_given_and_its_outputs_go_to_the_next_node() -> None:
    async with at_work() as world:
        await world.hear(opening())
        assert world.post.sent == [(CALLER, Opened(ONE, ME, 2), [])]
        await world.steps(0)
        (passed,) = world.post.to(NEXT, Step)
        assert (passed.start, passed.step, passed.caller, passed.replay) == (4, 0, CALLER, False)
        assert [spent.node for spent in passed.spent] == [ME[:8]]
        assert world.post.outputs_to(NEXT) == [100]


async def test_a_session_may_begin_with_the_pages_that_are_kept_for_its_caller() -> None:
    pages = [b"%016d" % number for number in range(3)]
    async with at_work() as world:
        world.engine.kept = {(CALLER, page) for page in pages[:2]}
        await world.hear(opening(prefix=pages))
        assert world.post.to(CALLER, Opened) == [Opened(ONE, ME, 2, 2)]
        await world.hear(Step(ONE, 2, 1, CALLER, [], attach=2), 1)
        await world.steps(2)
        assert world.engine.attached == [2]
        assert [(word.step, word.attach) for word in world.post.to(NEXT, Step)] == [(1, 2), (2, 0)]


async def test_pages_that_are_not_kept_cannot_stand_for_a_step() -> None:
    async with at_work() as world:
        await world.open()
        await world.hear(Step(ONE, 2, 1, CALLER, [], attach=2), 1)
        assert world.failures() == [("SessionUnknown", 1)]
        await world.steps(0, 1)
        assert world.post.outputs_to(NEXT) == [100, 101]


async def test_steps_said_at_once_are_taken_in_their_order() -> None:
    async with at_work() as world:
        world.thread.waits = True
        world.worker.on_message(CALLER, opening(next=None), ())
        for number in range(4):
            world.worker.on_message(CALLER, step(number), inputs(number))
        assert world.post.sent == []
        for _ in range(5):
            await rest()
            world.thread.work()
        await rest()
        assert world.engine.steps_done == [0, 1, 2, 3]
        assert world.post.outputs_to(CALLER) == [100, 101, 102, 103]


async def test_a_step_said_again_is_computed_once_and_sent_again_so_often() -> None:
    async with at_work() as world:
        await world.open()
        await world.steps(0, *[0] * AGAIN_MAX)
        assert world.engine.steps_done == [0]
        assert world.post.outputs_to(NEXT) == [100] * (1 + AGAIN_MAX)
        await world.steps(0)
        assert len(world.post.to(NEXT, Step)) == 1 + AGAIN_MAX
        assert world.failures() == [("JournalLost", 0)]
        await world.steps(1, 1)
        assert world.post.outputs_to(NEXT)[-2:] == [101, 101]


async def test_a_gap_between_steps_is_told_and_the_seat_stays() -> None:
    async with at_work() as world:
        await world.open()
        await world.steps(3)
        assert world.failures() == [("SessionUnknown", 3)]
        await world.steps(0)
        assert world.engine.steps_done == [0]


async def test_replayed_steps_only_fill_the_cache_here() -> None:
    async with at_work() as world:
        await world.open()
        await world.steps(0, 1, replay=True)
        assert world.engine.steps_done == [0, 1]
        assert world.post.sent == []
        await world.steps(1, replay=True)
        assert world.post.sent == []
        await world.steps(2)
        assert world.post.outputs_to(NEXT) == [102]


async def test_replayed_steps_go_on_to_a_next_node_that_is_new_too() -> None:
    async with at_work() as world:
        await world.open(fresh=True)
        await world.steps(0, replay=True)
        await world.steps(1)
        assert [word.replay for word in world.post.to(NEXT, Step)] == [True, False]


async def test_a_failed_step_is_told_and_its_seat_is_left() -> None:
    async with at_work() as world:
        await world.open()
        world.engine.fails = ZeroDivisionError("division by zero")
        await world.steps(0, 1)
        assert world.failures() == [("StepFailed", 0), ("SessionUnknown", 1)]
        assert world.engine.seats == set()
        assert world.post.hung_up == []


async def test_a_full_cache_is_told_and_the_seat_stays() -> None:
    async with at_work() as world:
        await world.open()
        world.engine.fails = CacheFull("65 tokens, 64 reserved")
        await world.steps(0)
        world.engine.fails = None
        await world.steps(0)
        assert world.failures() == [("CacheFull", 0)]
        assert world.engine.steps_done == [0]


@pytest.mark.parametrize("hand", [CALLER, OTHER])
async def test_whoever_breaks_the_protocol_is_cut_off_but_not_who_hands_it_on(hand: NodeId) -> None:
    async with at_work() as world:
        await world.open()
        world.engine.fails = PeerFault("a crossing to block 77")
        await world.hear(step(0), by=hand)
        assert world.failures() == [("PeerFault", 0)]
        assert world.post.hung_up == ([CALLER] if hand == CALLER else [])
        assert world.engine.seats == set()


async def test_more_steps_than_may_wait_end_the_seat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "QUEUE_BYTES_MAX", 3_000)
    async with at_work() as world:
        two = SessionId("2" * 32)
        await world.open()
        await world.open(session=two)
        world.thread.waits = True
        for number in range(20):
            await world.hear(step(number // 2, session=(ONE, two)[number % 2]))
        kinds = [kind for kind, _ in world.failures()]
        assert kinds[0] == "StepFailed"
        assert set(kinds) == {"StepFailed", "SessionUnknown"}
        assert world.post.hung_up == []


# --- SEATS ARE TAKEN AND LEFT ---


async def test_a_seat_that_the_engine_refuses_is_told_why_and_gone() -> None:
    async with at_work() as world:
        await world.hear(opening(tokens=5_000))
        assert world.failures() == [("CacheFull", None)]
        await world.steps(0)
        assert world.failures()[1:] == [("SessionUnknown", 0)]


async def test_opened_and_closed_in_one_breath_leaves_nothing() -> None:
    async with at_work() as world:
        world.worker.on_message(CALLER, opening(), ())
        world.worker.on_message(CALLER, Close(ONE), ())
        await rest()
        assert world.engine.seats == set()
        assert world.post.sent == []


async def test_closed_while_it_opens_leaves_nothing() -> None:
    async with at_work() as world:
        world.thread.waits = True
        await world.hear(opening())
        await world.hear(Close(ONE, 2))
        world.thread.work()
        await rest()
        assert world.engine.seats == set()
        assert world.post.sent == []


async def test_a_seat_opened_again_by_its_caller_starts_anew() -> None:
    async with at_work() as world:
        await world.open()
        await world.steps(0, 1)
        await world.hear(opening())
        assert world.post.to(CALLER, Opened) == [Opened(ONE, ME, 2)]
        await world.steps(0)
        assert world.engine.steps_done == [0, 1, 0]


async def test_what_an_old_seat_still_computes_is_not_the_new_ones() -> None:
    async with at_work() as world:
        await world.open()
        world.thread.waits = True
        world.engine.fails = StepFailed("out of memory")
        await world.steps(0)
        world.worker.on_message(CALLER, opening(), ())
        world.thread.work()
        world.thread.waits = False
        world.engine.fails = None
        await rest()
        assert world.failures() == []
        assert world.post.to(CALLER, Opened) == [Opened(ONE, ME, 2)]
        await world.steps(0)
        assert world.post.outputs_to(NEXT) == [100]


async def test_only_its_own_caller_opens_closes_or_reroutes_a_seat() -> None:
    async with at_work() as world:
        await world.open()
        await world.hear(opening(caller=OTHER), by=OTHER)
        await world.hear(Close(ONE), by=OTHER)
        await world.hear(Reroute(ONE, 2, OTHER), by=OTHER)
        assert world.failures(OTHER) == [("PeerFault", None), ("SessionUnknown", None)]
        await world.steps(0)
        assert world.post.outputs_to(NEXT) == [100]
        assert world.post.outputs_to(OTHER) == []


async def test_a_close_may_name_one_seat_of_several() -> None:
    async with at_work() as world:
        await world.open(stop=3)
        await world.open(start=3)
        await world.hear(Close(ONE, 2))
        assert world.engine.seats == {Seat(ONE, 3)}
        await world.hear(Close(ONE))
        assert world.engine.seats == set()


async def test_nobody_gets_more_seats_than_leave_some_for_others() -> None:
    async with at_work() as world:
        for number in range(SEATS_MAX + 1):
            world.worker.on_message(CALLER, opening(session=SessionId(f"{number:032x}")), ())
        await rest()
        assert world.failures() == [("CacheFull", None)]
        assert len(world.engine.seats) == SEATS_MAX
        await world.hear(opening(caller=OTHER), by=OTHER)
        assert world.post.to(OTHER, Opened) == [Opened(ONE, ME, 2)]
        await world.hear(opening(session=SessionId("0" * 32)))
        assert world.failures() == [("CacheFull", None)], "its own seat is not one more"


async def test_a_leaving_node_waits_for_its_seats_and_gives_no_more() -> None:
    async with at_work() as world:
        await world.open()
        leaving = asyncio.create_task(world.worker.vacant())
        await rest()
        assert not leaving.done()
        await world.hear(opening(session=SessionId("2" * 32)))
        assert world.failures() == [("TryElsewhere", None)]
        await world.hear(Close(ONE))
        assert leaving.done()


async def test_idle_seats_go_but_not_one_that_was_taken_anew_meanwhile() -> None:
    async with at_work() as world:
        await world.open()
        world.engine.idle = [Seat(ONE, 2)]
        world.thread.waits = True
        expiring = asyncio.create_task(world.worker.expire())
        await rest()
        world.worker.on_message(CALLER, opening(), ())
        world.thread.work()
        world.thread.waits = False
        await expiring
        await rest()
        await world.steps(0)
        assert world.post.outputs_to(NEXT) == [100]
        await world.worker.expire()
        assert world.engine.seats == set()


# --- REROUTES ---


async def test_a_reroute_sends_all_again_and_only_the_last_is_no_replay() -> None:
    async with at_work() as world:
        await world.open()
        await world.steps(0, 1, 2)
        await world.hear(Reroute(ONE, 2, OTHER))
        assert world.post.outputs_to(OTHER) == [100, 101, 102]
        sent = [(word.step, word.start, word.replay) for word in world.post.to(OTHER, Step)]
        assert sent == [(0, 4, True), (1, 4, True), (2, 4, False)]
        await world.steps(3)
        assert world.post.outputs_to(OTHER)[3:] == [103]
        assert world.post.outputs_to(NEXT) == [100, 101, 102]
        assert world.failures() == []


async def test_a_reroute_ends_a_send_that_is_stuck() -> None:
    async with at_work() as world:
        await world.open()
        await world.steps(0)
        world.post.stuck = {NEXT}
        await world.steps(1, 2)
        await world.hear(Reroute(ONE, 2, OTHER))
        assert [what for what in world.post.outputs_to(OTHER) if what != 102] == [100, 101]
        assert world.post.outputs_to(OTHER)[-1] == 102
        assert world.failures() == [], "nobody is lost whom nobody wants"


async def test_of_two_reroutes_the_later_gets_everything_in_order() -> None:
    async with at_work() as world:
        await world.open()
        await world.steps(0, 1)
        world.post.stuck = {STRANGER}
        await world.hear(Reroute(ONE, 2, STRANGER))
        await world.steps(2, 3)
        await world.hear(Reroute(ONE, 2, OTHER))
        await rest()
        got = [word.step for word in world.post.to(OTHER, Step)]
        assert got[:3] == [0, 1, 2]
        assert got[-1] == 3
        assert sorted(set(got)) == [0, 1, 2, 3]
        assert world.failures() == []


@pytest.mark.parametrize("fresh", [False, True])
async def test_a_replay_under_way_goes_on_to_where_it_is_rerouted(*, fresh: bool) -> None:
    async with at_work() as world:
        await world.open(fresh=fresh)
        await world.steps(0, 1, replay=True)
        await world.hear(Reroute(ONE, 2, OTHER))
        await world.steps(2, replay=True)
        await world.steps(3)
        assert [word.step for word in world.post.to(OTHER, Step)] == [0, 1, 2, 3]


async def test_a_reroute_finds_a_send_that_has_just_failed() -> None:
    async with at_work() as world:
        await world.open()
        world.post.dead, world.post.stuck = {NEXT}, {CALLER}
        await world.steps(0)  # it waits to tell its caller
        await world.hear(Reroute(ONE, 2, OTHER))
        world.post.freed.set()
        await rest()
        assert world.failures() == [("NodeLost", 0)]
        assert world.post.outputs_to(OTHER) == [100]


async def test_a_close_finds_a_send_that_has_just_failed() -> None:
    async with at_work() as world:
        await world.open()
        world.post.dead, world.post.stuck = {NEXT}, {CALLER}
        await world.steps(0)
        await world.hear(Close(ONE))
        assert world.engine.seats == set()
        world.post.freed.set()


async def test_a_seat_is_not_rerouted_for_ever() -> None:
    async with at_work() as world:
        await world.open()
        await world.steps(0)
        for _ in range(AGAIN_MAX + 1):
            await world.hear(Reroute(ONE, 2, OTHER))
        assert len(world.post.to(OTHER, Step)) == AGAIN_MAX
        assert world.failures() == [("JournalLost", None)]


async def test_what_is_not_kept_any_more_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "JOURNAL_BYTES", 1_500)
    async with at_work() as world:
        await world.open()
        await world.steps(0, 1, 2, 3, 4, 5)
        await world.hear(Reroute(ONE, 2, OTHER))
        assert world.failures() == [("JournalLost", None)]
        assert world.post.to(OTHER, Step) == []


async def test_last_steps_are_not_kept_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "JOURNAL_BYTES", 100)
    async with at_work() as world:
        await world.open()
        await world.steps(0, 0)
        assert world.post.outputs_to(NEXT) == [100]
        await world.hear(Reroute(ONE, 2, OTHER))
        assert world.failures() == [("JournalLost", 0), ("JournalLost", None)]


# --- STANDBYS ---


async def test_a_standby_is_sent_everything_and_only_as_replays() -> None:
    async with at_work() as world:
        await world.open()
        await world.steps(0, 1)
        await world.hear(Reroute(ONE, 2, OTHER, also=True))
        await world.steps(2)
        assert world.post.outputs_to(OTHER) == [100, 101, 102]
        assert all(word.replay for word in world.post.to(OTHER, Step))
        assert world.post.outputs_to(NEXT) == [100, 101, 102]
        await world.hear(Reroute(ONE, 2, NEXT, also=True))  # who gets them anyhow: none
        await world.steps(3)
        assert world.post.outputs_to(OTHER) == [100, 101, 102]


async def test_a_standby_that_takes_over_is_sent_the_last_step_only() -> None:
    async with at_work() as world:
        await world.open()
        await world.steps(0, 1)
        await world.hear(Reroute(ONE, 2, OTHER, also=True))
        await world.steps(2)
        await world.hear(Reroute(ONE, 2, OTHER, since=2))
        await world.steps(3)
        sent = [(word.step, word.replay) for word in world.post.to(OTHER, Step)]
        assert sent == [(0, True), (1, True), (2, True), (2, False), (3, False)]
        assert world.post.outputs_to(NEXT) == [100, 101, 102]


async def test_a_standby_that_lags_gets_what_it_lacks_when_it_takes_over() -> None:
    async with at_work() as world:
        await world.open()
        world.post.stuck = {OTHER}
        await world.hear(Reroute(ONE, 2, OTHER, also=True))
        await world.steps(0, 1, 2)
        assert world.post.outputs_to(NEXT) == [100, 101, 102], "nobody waits for it"
        world.post.stuck = set()
        await world.hear(Reroute(ONE, 2, OTHER, since=2))
        steps = [(word.step, word.replay) for word in world.post.to(OTHER, Step)]
        assert steps == [(0, True), (1, True), (2, False)]


async def test_the_loss_of_a_standby_is_told_and_nothing_else_happens() -> None:
    async with at_work() as world:
        await world.open()
        world.post.dead = {OTHER}
        await world.hear(Reroute(ONE, 2, OTHER, also=True))
        await world.steps(0, 1)
        (failed,) = world.post.to(CALLER, Failed)
        assert (failed.kind, failed.about) == ("NodeLost", OTHER)
        assert world.post.outputs_to(NEXT) == [100, 101]


async def test_a_standby_says_nothing_until_it_hears_a_step_that_is_no_replay() -> None:
    async with at_work() as world:
        await world.open()
        await world.steps(0, 1, replay=True)
        await world.hear(Reroute(ONE, 2, OTHER, since=EVERY_STEP))
        await world.steps(2, replay=True)
        assert world.post.sent == []
        await world.steps(2)
        assert world.engine.steps_done == [0, 1, 2]
        assert world.post.outputs_to(OTHER) == [102]


async def test_leaving_ends_a_standbys_task_even_if_it_takes_nothing() -> None:
    async with at_work() as world:
        await world.open()
        world.post.stuck = {OTHER}
        await world.steps(0)
        await world.hear(Reroute(ONE, 2, OTHER, also=True))


# --- SHARES OF THE CACHE ---


async def test_a_caller_alone_may_have_all_and_beside_others_half() -> None:
    async with at_work() as world:
        world.engine.free = TOTAL
        await world.hear(opening(tokens=TOTAL))
        assert world.failures() == []
        await world.hear(Close(ONE))
        await world.hear(opening(caller=OTHER), by=OTHER)
        await world.hear(opening(session=SessionId("2" * 32), tokens=TOTAL // 2))
        assert world.failures() == []
        await world.hear(opening(session=SessionId("3" * 32), tokens=1))
        (failed,) = world.post.to(CALLER, Failed)
        assert failed.kind == "CacheFull"
        assert f"a caller gets {TOTAL // 2} of {TOTAL}" in failed.text


async def test_who_found_no_room_counts_as_being_there_for_a_while() -> None:
    async with at_work() as world:
        world.engine.free = 0
        await world.hear(opening(caller=OTHER, tokens=TOTAL // 2), by=OTHER)
        assert world.failures(OTHER) == [("CacheFull", None)]
        world.engine.free = TOTAL
        await world.hear(opening(tokens=TOTAL))
        assert world.failures() == [("CacheFull", None)]
        world.clock.now_s += WANTED_S
        await world.hear(opening(tokens=TOTAL))
        assert len(world.post.to(CALLER, Opened)) == 1


async def test_who_wants_more_than_half_keeps_nobody_from_it() -> None:
    async with at_work() as world:
        world.engine.free = 0
        await world.hear(opening(caller=OTHER, tokens=TOTAL), by=OTHER)
        world.engine.free = TOTAL
        await world.hear(opening(tokens=TOTAL))
        assert len(world.post.to(CALLER, Opened)) == 1


# --- WHO IS LOST ---


async def test_a_next_node_out_of_reach_is_named_to_the_caller() -> None:
    async with at_work() as world:
        await world.open()
        world.post.dead = {NEXT}
        await world.steps(0)
        (failed,) = world.post.to(CALLER, Failed)
        assert (failed.kind, failed.step, failed.about) == ("NodeLost", 0, NEXT)


async def test_a_lost_link_is_told_to_the_callers_whose_next_it_was() -> None:
    async with at_work() as world:
        await world.open()
        await world.hear(opening(session=SessionId("2" * 32), caller=OTHER, next=None), by=OTHER)
        await world.steps(0)
        world.worker.on_lost(NEXT, NodeLost("the pipe broke"))
        await rest()
        (failed,) = world.post.to(CALLER, Failed)
        assert (failed.kind, failed.step, failed.about) == ("NodeLost", 1, NEXT)
        assert world.post.to(OTHER, Failed) == []


async def lease_ends(world: World) -> None:
    """The seat is kept for ORPHAN_S from now on, and no longer."""
    world.clock.now_s += ORPHAN_S
    await world.worker.expire()
    assert world.engine.seats == {Seat(ONE, 2)}
    world.clock.now_s += 1.0
    await world.worker.expire()
    assert world.engine.seats == set()


async def test_a_seat_outlives_the_link_to_its_caller_for_a_while() -> None:
    async with at_work() as world:
        await world.open()
        world.worker.on_lost(CALLER, NodeLost("the pipe broke"))
        await lease_ends(world)


async def test_a_caller_that_comes_back_keeps_its_seat() -> None:
    async with at_work() as world:
        await world.open()
        world.worker.on_lost(CALLER, NodeLost("the pipe broke"))
        await world.steps(0)
        world.clock.now_s += 2 * ORPHAN_S
        await world.worker.expire()
        assert world.engine.seats == {Seat(ONE, 2)}


async def test_a_caller_whose_steps_come_over_others_keeps_its_seat_while_they_come() -> None:
    async with at_work() as world:
        await world.open()
        world.worker.on_lost(CALLER, NodeLost("the pipe broke"))
        world.clock.now_s += ORPHAN_S
        await world.hear(step(0), by=OTHER)
        await lease_ends(world)


async def test_a_caller_that_vanishes_in_mid_step_does_not_keep_its_seat() -> None:
    async with at_work() as world:
        await world.open()
        world.thread.waits = True
        await world.steps(0)
        world.worker.on_lost(CALLER, NodeLost("the pipe broke"))
        world.thread.waits = False
        world.thread.work()
        await rest()
        await lease_ends(world)


async def test_the_seats_of_a_caller_that_was_cut_off_go_at_once() -> None:
    async with at_work() as world:
        await world.open()
        world.worker.on_lost(CALLER, PeerFault("garbage"))
        await rest()
        assert world.engine.seats == set()


async def test_leaving_ends_every_task_even_if_nobody_takes_what_it_sends() -> None:
    async with at_work() as world:
        await world.open()
        await world.open(session=SessionId("2" * 32), next=None)
        world.post.stuck = {NEXT, CALLER}
        await world.steps(0, 1)
        await world.hear(step(0, session=SessionId("2" * 32)))


# --- FLOODS ---


async def test_strangers_are_told_of_unknown_sessions_so_often() -> None:
    async with at_work() as world:
        for _ in range(2 * STRANGERS_TOLD_PER_S):
            world.worker.on_message(STRANGER, step(0), inputs(0))
        await rest()
        assert len(world.post.to(CALLER, Failed)) == STRANGERS_TOLD_PER_S
        await world.hear(step(0), by=OTHER)
        await world.hear(step(0), by=CALLER)
        assert len(world.post.to(CALLER, Failed)) == STRANGERS_TOLD_PER_S + 2
        world.clock.now_s += 1.0
        await world.hear(step(0), by=STRANGER)
        assert len(world.post.to(CALLER, Failed)) == STRANGERS_TOLD_PER_S + 3


async def test_a_peer_that_has_too_much_under_way_is_cut_off() -> None:
    async with at_work() as world:
        world.thread.waits = True
        for _ in range(UNDER_WAY_MAX + 1):
            world.worker.on_message(OTHER, Reroute(ONE, 2, OTHER), ())
        assert world.post.hung_up == [OTHER]
        await world.hear(opening())
        assert world.post.hung_up == [OTHER], "nobody else is"
