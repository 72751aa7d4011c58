"""A caller's session against a scripted swarm: what it sends, and what it makes of the answers."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch

from shardline.client import seating
from shardline.client.session import RemoteSession
from shardline.client.sessions import Sessions
from shardline.client.surroundings import ChainBroken, Mended, Need, Terms
from shardline.client.times import StepTimes
from shardline.codec import WIRES, pack, unpack
from shardline.core.errors import (
    CacheFull,
    JournalLost,
    NodeLost,
    NotCovered,
    PeerFault,
    ShardlineError,
    StepFailed,
)
from shardline.core.ids import NodeId
from shardline.core.segments import Segment
from shardline.core.spans import Span
from shardline.swarm import Hop
from shardline.wire import (
    COUNT_MAX,
    Close,
    Failed,
    Message,
    Open,
    Opened,
    Reroute,
    Result,
    Spent,
    Step,
)

pytestmark = pytest.mark.anyio

ME, A, B, C, D, E = (NodeId(digit * 64) for digit in "0abcde")
WHOLE = Span(0, 6)


@dataclass
class Around:
    """A swarm of nodes that hold all they are asked for; A, B, C come first."""

    holders: dict[Span, list[NodeId]]
    sent: asyncio.Queue[tuple[NodeId, Message, Sequence[Segment]]] = field(
        default_factory=asyncio.Queue["tuple[NodeId, Message, Sequence[Segment]]"]
    )
    unreachable: set[NodeId] = field(default_factory=set[NodeId])
    silent: set[NodeId] = field(default_factory=set[NodeId])
    leaves: set[NodeId] = field(default_factory=set[NodeId])
    judged: list[tuple[NodeId, float]] = field(default_factory=list[tuple[NodeId, float]])
    failures: list[NodeId] = field(default_factory=list[NodeId])
    told: list[Mended | str] = field(default_factory=list["Mended | str"])
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    exact: set[NodeId] = field(default_factory=set[NodeId])
    """Who reads tensors only where they are written raw."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Somebody was asked for a sign of life."""

    @property
    def me(self) -> NodeId:
        return ME

    @property
    def post(self) -> "Around":
        return self

    async def send(self, peer: NodeId, message: Message, segments: Sequence[Segment] = ()) -> None:
        if peer in self.unreachable:
            raise NodeLost(f"{peer[:8]} is gone")
        await self.sent.put((peer, message, segments))

    def send_now(self, peer: NodeId, message: Message, segments: Sequence[Segment] = ()) -> bool:
        if peer in self.unreachable:
            return False
        self.sent.put_nowait((peer, message, segments))
        return True

    def reads(self, node: NodeId) -> Collection[str]:
        return ("raw",) if node in self.exact else WIRES

    def judge(self, node: NodeId, block_s: float) -> None:
        self.judged.append((node, block_s))

    def failed(self, node: NodeId) -> None:
        self.failures.append(node)

    def route(self, within: Span, avoid: Collection[NodeId], need: Need) -> tuple[Hop, ...]:
        spans = [span for span in self.holders if within.start <= span.start < within.stop]
        hops: list[Hop] = []
        for span in sorted(spans):
            free = [node for node in self.holders[span] if node not in avoid]
            if not free:
                raise NotCovered(f"no live node holds blocks {span}")
            hops.append(Hop(free[0], span))
        return tuple(hops)

    def leaving(self, chain: tuple[Hop, ...], avoid: Collection[NodeId]) -> dict[NodeId, str]:
        found = {hop.node: "it is leaving" for hop in chain if hop.node in self.leaves}
        try:
            for hop in chain:
                if hop.node in found:
                    self.route(hop.span, {*found, *avoid}, Need())
        except NotCovered:
            return {}
        return found

    async def alive(self, node: NodeId, wait_s: float) -> bool:
        self.asked.set()
        return node not in self.silent

    def tell(self, news: Mended | str) -> None:
        self.told.append(news)
        self.heard.set()


THIRDS = (Span(0, 2), Span(2, 4), Span(4, 6))


@pytest.fixture
def around() -> Around:
    return Around({THIRDS[0]: [A, D], THIRDS[1]: [B, D], THIRDS[2]: [C, D]})


def as_it_came(segments: Sequence[Segment]) -> list[bytes]:
    return [bytes(segment) for segment in segments]


def step(session: RemoteSession, *segments: bytes) -> asyncio.Task[tuple[list[bytes], list[Spent]]]:
    """A step of one token under way."""
    return asyncio.create_task(session.step(segments, as_it_came, rows=2, tokens=1))


async def seats(around: Around, session: RemoteSession, count: int) -> list[Open]:
    """Give the next so many seats that are asked for."""
    given: list[Open] = []
    while len(given) < count:
        node, message, _ = await around.sent.get()
        assert isinstance(message, Open), message
        given.append(message)
        session.on_message(node, Opened(session.id, node, message.start), ())
    return given


async def opened(around: Around) -> RemoteSession:
    session = RemoteSession(around, "print", WHOLE)
    opening = asyncio.create_task(session.open(rows=2, tokens=30))
    await seats(around, session, 3)
    await opening
    return session


async def stepped(around: Around, session: RemoteSession, number: int) -> None:
    """One step that goes well."""
    stepping = step(session, b"in %d" % number)
    node, message, _ = await around.sent.get()
    assert (node, message) == (session.chain[0].node, Step(session.id, 0, number, ME, []))
    session.on_message(session.chain[-1].node, Result(session.id, number, []), [b"out"])
    await stepping


async def test_who_cannot_reach_anybody_leaves_the_loop_its_turns(around: Around) -> None:
    """A send that fails at once is no pause: what would heal it has to be heard meanwhile."""
    session = await opened(around)
    stepping = step(session, b"x")
    node, message, _ = await around.sent.get()
    assert isinstance(message, Step)
    around.unreachable |= {B, D}
    asyncio.get_running_loop().call_later(0.3, around.unreachable.clear)
    session.on_gone(B, NodeLost("the link broke"))
    async with asyncio.timeout(30):
        await seats(around, session, 1)
        assert around.unreachable == set()
        node, message, _ = await around.sent.get()
        assert (node, type(message)) == (A, Reroute)
        session.on_message(C, Result(session.id, 0, []), [b"y"])
        assert (await stepping)[0] == [b"y"]


async def test_every_node_is_told_its_span_and_who_comes_next(around: Around) -> None:
    session = RemoteSession(around, "print", WHOLE)
    opening = asyncio.create_task(session.open(rows=2, tokens=30))
    first, second, third = await seats(around, session, 3)
    assert first == Open(session.id, ME, "print", 0, 2, B, 30, 2, fresh=True)
    assert second == Open(session.id, ME, "print", 2, 4, C, 30, 2, fresh=True)
    assert third == Open(session.id, ME, "print", 4, 6, None, 30, 2, fresh=False)
    await opening


async def test_a_step_says_what_the_slowest_node_took_for_the_token_before(around: Around) -> None:
    session = await opened(around)
    took = [(1_000, 3_000, 2_000), (0, 2**52, 0), (0, 0, 0)]
    said = 0, 3_000, COUNT_MAX
    for number, (each_us, slowest_us) in enumerate(zip(took, said, strict=True)):
        spent = [Spent(name, took_us) for name, took_us in zip("abc", each_us, strict=True)]
        stepping = step(session, b"in")
        _, message, _ = await around.sent.get()
        assert isinstance(message, Step)
        assert (message.step, message.slowest_us) == (number, slowest_us)
        session.on_message(C, Result(session.id, number, spent), [b"out"])
        await stepping


async def test_a_step_goes_to_the_first_node_and_comes_from_the_last(around: Around) -> None:
    session = await opened(around)
    stepping = step(session, b"abc")
    assert await around.sent.get() == (A, Step(session.id, 0, 0, ME, []), [b"abc"])
    spent = [Spent("a", 1_000, 50), Spent("b", 2_000, 7)]
    session.on_message(A, Result(session.id, 0, spent), [b"not the last node"])
    session.on_message(C, Result(session.id, 9, spent), [b"another step"])
    session.on_message(C, Result(session.id, 0, spent), [b"out"])
    assert await stepping == ([b"out"], spent)


async def test_a_node_that_refuses_a_seat_is_passed_by(around: Around) -> None:
    session = RemoteSession(around, "print", WHOLE)
    opening = asyncio.create_task(session.open(rows=1, tokens=30))
    for _ in THIRDS:
        node, _, _ = await around.sent.get()
        if node == B:
            full = Failed.of(session.id, None, B, CacheFull("30 asked, 4 free"))
            session.on_message(B, full, ())
    left = {(await around.sent.get())[:2] for _ in range(2)}
    assert left == {(A, Close(session.id, 0)), (C, Close(session.id, 4))}
    second = await seats(around, session, 3)
    await opening
    assert [hop.node for hop in session.chain] == [A, D, C]
    assert [message.start for message in second] == [0, 2, 4]


async def test_when_all_refuse_the_reason_is_the_nodes_own(around: Around) -> None:
    around.holders[THIRDS[1]] = [B]
    session = RemoteSession(around, "print", WHOLE)
    opening = asyncio.create_task(session.open(rows=1, tokens=30))
    for _ in THIRDS:
        await around.sent.get()
    session.on_message(B, Failed.of(session.id, None, B, CacheFull("30 asked, 4 free")), ())
    with pytest.raises(ChainBroken, match="30 asked, 4 free"):
        await opening


async def test_the_sender_before_the_gap_is_told_to_send_again(around: Around) -> None:
    session = await opened(around)
    await stepped(around, session, 0)
    stepping = step(session, b"in 1")
    await around.sent.get()
    around.holders[THIRDS[1]] = [D]
    session.on_gone(B, NodeLost("b went away"))
    (seat,) = await seats(around, session, 1)
    assert seat == Open(session.id, ME, "print", 2, 4, C, 30, 2, fresh=False)
    assert await around.sent.get() == (A, Reroute(session.id, 0, D), ())
    session.on_message(C, Result(session.id, 1, []), [b"out"])
    assert await stepping == ([b"out"], [])
    (news,) = around.told
    assert isinstance(news, Mended)
    assert (news.lost, news.hops) == ((Hop(B, THIRDS[1]),), (Hop(D, THIRDS[1]),))


async def test_the_caller_sends_again_what_the_first_node_had(around: Around) -> None:
    session = await opened(around)
    await stepped(around, session, 0)
    stepping = step(session, b"in 1")
    await around.sent.get()
    session.on_gone(A, NodeLost("a went away"))
    await seats(around, session, 1)
    again = [await around.sent.get() for _ in range(2)]
    assert again == [
        (D, Step(session.id, 0, 0, ME, [], replay=True), (b"in 0",)),
        (D, Step(session.id, 0, 1, ME, [], replay=False), (b"in 1",)),
    ]
    session.on_message(C, Result(session.id, 1, []), [b"out"])
    await stepping


async def test_neighbours_that_go_together_are_replaced_together(around: Around) -> None:
    session = await opened(around)
    stepping = step(session, b"in")
    await around.sent.get()
    session.on_gone(B, NodeLost("b went away"))
    session.on_gone(C, NodeLost("c went away"))
    first, second = await seats(around, session, 2)
    assert (first.start, first.next, first.fresh) == (2, D, True)
    assert (second.start, second.next, second.fresh) == (4, None, False)
    assert await around.sent.get() == (A, Reroute(session.id, 0, D), ())
    session.on_message(D, Result(session.id, 0, []), [b"out"])
    await stepping


async def test_a_sender_that_kept_nothing_becomes_part_of_the_gap(around: Around) -> None:
    session = await opened(around)
    stepping = step(session, b"in")
    await around.sent.get()
    session.on_gone(B, NodeLost("b went away"))
    await seats(around, session, 1)
    assert isinstance((await around.sent.get())[1], Reroute)
    session.on_message(A, Failed.of(session.id, None, A, JournalLost("too long")), ())
    (seat,) = await seats(around, session, 1)
    assert seat.start == 0
    assert isinstance((await around.sent.get())[1], Step)
    session.on_message(C, Result(session.id, 0, []), [b"out"])
    await stepping


async def test_what_all_nodes_hold_of_the_prefix_is_not_sent_until_a_seat_is_filled_anew(
    around: Around,
) -> None:
    session = RemoteSession(around, "print", WHOLE)
    names = [b"%016d" % number for number in range(4)]
    opening = asyncio.create_task(session.open(rows=2, tokens=300, prefix=names))
    asked: list[list[bytes]] = []
    for pages in (3, 2, 9):
        node, message, _ = await around.sent.get()
        assert isinstance(message, Open)
        asked.append(message.prefix)
        session.on_message(node, Opened(session.id, node, message.start, pages), ())
    assert await opening == 2
    assert len({tuple(prefix) for prefix in asked}) == 3, "each behind other nodes"
    session.begin([b"two pages"], 2, 128)
    stepping = step(session, b"rest")
    assert await around.sent.get() == (A, Step(session.id, 0, 1, ME, [], attach=2), [b"rest"])
    session.on_gone(A, NodeLost("a went away"))
    (seat,) = await seats(around, session, 1)
    assert seat.prefix == []
    again = [await around.sent.get() for _ in range(2)]
    assert [(node, body) for node, _, body in again] == [(D, (b"two pages",)), (D, (b"rest",))]
    session.on_message(C, Result(session.id, 1, []), [b"out"])
    await stepping


async def test_a_blamed_node_is_replaced_and_not_the_one_that_blames_it(around: Around) -> None:
    session = await opened(around)
    stepping = step(session, b"in")
    await around.sent.get()
    lost = Failed.of(session.id, 0, A, NodeLost("b cannot be reached"), about=B)
    session.on_message(A, lost, ())
    (seat,) = await seats(around, session, 1)
    assert seat.start == 2
    session.on_message(C, Result(session.id, 0, []), [b"out"])
    await stepping


async def test_a_node_whose_blocks_fail_is_replaced(around: Around) -> None:
    session = await opened(around)
    stepping = step(session, b"in")
    await around.sent.get()
    session.on_message(C, Failed.of(session.id, 0, C, StepFailed("out of memory")), ())
    (seat,) = await seats(around, session, 1)
    assert (seat.start, session.id) == (4, seat.session)
    await around.sent.get()
    session.on_message(D, Result(session.id, 0, []), [b"out"])
    await stepping


async def test_a_replacement_that_dies_is_replaced_too(around: Around) -> None:
    session = await opened(around)
    stepping = step(session, b"in")
    await around.sent.get()
    session.on_gone(B, NodeLost("b went away"))
    await seats(around, session, 1)
    await around.sent.get()
    around.holders[THIRDS[1]] = [B]  # it came back, and D leaves
    session.on_gone(D, NodeLost("d went away"))
    (seat,) = await seats(around, session, 1)
    assert seat.start == 2
    assert await around.sent.get() == (A, Reroute(session.id, 0, B), ())
    session.on_message(C, Result(session.id, 0, []), [b"out"])
    await stepping


async def test_whoever_waits_is_told_which_blocks_nobody_holds(around: Around) -> None:
    around.holders[THIRDS[1]] = [B]
    session = await opened(around)
    stepping = step(session, b"in")
    await around.sent.get()
    around.holders[THIRDS[1]] = []
    session.on_gone(B, NodeLost("b went away"))
    await around.heard.wait()
    assert around.told == ["no live node holds blocks 2:4"]
    around.holders[THIRDS[1]] = [B]
    session.on_joined(B)
    await seats(around, session, 1)
    assert await around.sent.get() == (A, Reroute(session.id, 0, B), ())
    session.on_message(C, Result(session.id, 0, []), [b"out"])
    await stepping


async def test_a_frozen_node_is_found_by_asking(
    around: Around, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardline.client.session.PROBE_S", 0.01)
    session = await opened(around)
    stepping = step(session, b"in")
    await around.sent.get()
    around.silent.add(C)
    (seat,) = await seats(around, session, 1)
    assert seat.start == 4
    await around.sent.get()
    session.on_message(D, Result(session.id, 0, []), [b"out"])
    await stepping


async def test_a_leaving_node_is_left_before_the_next_step(around: Around) -> None:
    session = await opened(around)
    await stepped(around, session, 0)
    around.leaves.add(B)
    stepping = step(session, b"in 1")
    await seats(around, session, 1)
    assert await around.sent.get() == (A, Reroute(session.id, 0, D), ())
    assert await around.sent.get() == (B, Close(session.id, 2), ())
    assert await around.sent.get() == (A, Step(session.id, 0, 1, ME, []), [b"in 1"])
    session.on_message(C, Result(session.id, 1, []), [b"out"])
    await stepping


async def test_nobody_is_left_for_one_that_failed_before(around: Around) -> None:
    session = await opened(around)
    stepping = step(session, b"in 0")
    await around.sent.get()
    session.on_message(C, Failed.of(session.id, 0, C, StepFailed("out of memory")), ())
    await seats(around, session, 1)
    await around.sent.get()
    session.on_message(D, Result(session.id, 0, []), [b"out"])
    await stepping
    while not around.sent.empty():
        around.sent.get_nowait()
    around.leaves.add(D)
    await stepped(around, session, 1)
    assert session.chain[-1].node == D


async def test_a_step_beyond_what_was_reserved_is_the_callers_own_fault(around: Around) -> None:
    session = await opened(around)
    with pytest.raises(CacheFull, match="2 x 31 tokens, but 2 x 30 were reserved"):
        await session.step([b"in"], as_it_came, rows=2, tokens=31)
    with pytest.raises(CacheFull, match="3 x 1 tokens"):
        await session.step([b"in"], as_it_came, rows=3, tokens=1)
    assert around.sent.empty()


@pytest.mark.parametrize("error", [CacheFull("you said too much"), PeerFault("you are garbage")])
async def test_what_a_node_says_of_the_caller_costs_the_node_its_place(
    around: Around, error: ShardlineError
) -> None:
    session = await opened(around)
    stepping = step(session, b"in")
    await around.sent.get()
    session.on_message(B, Failed.of(session.id, 0, B, error), ())
    (seat,) = await seats(around, session, 1)
    assert seat.start == 2
    assert await around.sent.get() == (A, Reroute(session.id, 0, D), ())
    session.on_message(C, Result(session.id, 0, []), [b"out"])
    assert await stepping == ([b"out"], [])
    assert around.failures == [B]


async def test_when_the_only_holder_refuses_the_error_names_it(around: Around) -> None:
    around.holders = {THIRDS[0]: [A], THIRDS[1]: [B], THIRDS[2]: [C]}
    session = await opened(around)
    stepping = step(session, b"in")
    await around.sent.get()
    session.on_message(B, Failed.of(session.id, 0, B, PeerFault("you are garbage")), ())
    with pytest.raises(ChainBroken, match="node bbbbbbbb: you are garbage"):
        await stepping


async def test_a_result_that_makes_no_sense_costs_the_last_node_its_place(around: Around) -> None:
    session = await opened(around)

    def read(segments: Sequence[Segment]) -> bytes:
        if segments[0] != b"sense":
            raise PeerFault("no sense")
        return bytes(segments[0])

    stepping = asyncio.create_task(session.step([b"in"], read, rows=2, tokens=1))
    await around.sent.get()
    session.on_message(C, Result(session.id, 0, []), [b"nonsense"])
    (seat,) = await seats(around, session, 1)
    assert seat.start == 4
    assert await around.sent.get() == (B, Reroute(session.id, 2, D), ())
    session.on_message(C, Result(session.id, 0, []), [b"sense"])
    session.on_message(D, Result(session.id, 0, []), [b"sense"])
    assert await stepping == (b"sense", [])


async def test_when_two_fail_over_it_whoever_sent_it_is_replaced(around: Around) -> None:
    around.holders = {THIRDS[0]: [A], THIRDS[1]: [B, E], THIRDS[2]: [C, D]}
    session = await opened(around)
    stepping = step(session, b"in")
    await around.sent.get()
    session.on_message(C, Failed.of(session.id, 0, C, PeerFault("garbage")), ())
    await seats(around, session, 1)
    assert await around.sent.get() == (B, Reroute(session.id, 2, D), ())
    assert await around.sent.get() == (C, Close(session.id, 4), ())
    session.on_message(D, Failed.of(session.id, 0, D, StepFailed("shapes clash")), ())
    first, second = await seats(around, session, 2)
    assert (first.start, first.next, second.start) == (2, C, 4), "C is cleared"
    assert await around.sent.get() == (A, Reroute(session.id, 0, E), ())
    session.on_message(C, Result(session.id, 0, []), [b"out"])
    assert await stepping == ([b"out"], [])


async def test_a_node_that_blames_all_its_neighbours_is_left_itself(around: Around) -> None:
    around.holders[THIRDS[0]] = [A, E]
    session = await opened(around)
    stepping = step(session, b"in")
    await around.sent.get()
    session.on_message(A, Failed.of(session.id, 0, A, NodeLost("gone"), about=C), ())
    session.on_message(A, Failed.of(session.id, 0, A, NodeLost("gone"), about=B), ())
    (seat,) = await seats(around, session, 1)
    assert seat.start == 2, "C is none of its business"
    assert await around.sent.get() == (A, Reroute(session.id, 0, D), ())
    session.on_message(A, Failed.of(session.id, 0, A, NodeLost("gone"), about=D), ())
    first, _ = await seats(around, session, 2)
    assert first.start == 0
    assert (await around.sent.get())[0] == E
    session.on_message(C, Result(session.id, 0, []), [b"out"])
    await stepping


async def one_way_broken(around: Around, session: RemoteSession, sender: NodeId) -> None:
    """All nodes do what they are asked, but this one reaches nobody behind it."""
    while True:
        node, message, _ = await around.sent.get()
        match message:
            case Open():
                session.on_message(node, Opened(session.id, node, message.start), ())
            case Step() | Reroute() if session.chain[0].node == sender:
                behind = session.chain[1].node
                text = f"{behind[:8]} cannot be reached"
                lost = Failed.of(session.id, 0, sender, NodeLost(text), about=behind)
                session.on_message(sender, lost, ())
            case Step() | Reroute():
                last = session.chain[-1].node
                session.on_message(last, Result(session.id, 0, []), [b"out"])
            case _:
                pass


@pytest.mark.parametrize("behind", [[B], [B, D]])
async def test_a_node_that_reaches_nobody_behind_it_is_replaced_within_few_mends(
    around: Around, behind: list[NodeId]
) -> None:
    around.holders = {THIRDS[0]: [A, E], THIRDS[1]: behind, THIRDS[2]: [C]}
    session = await opened(around)
    swarm = asyncio.create_task(one_way_broken(around, session, A))
    try:
        assert await step(session, b"in") == ([b"out"], [])
    finally:
        swarm.cancel()
    assert session.chain[0].node == E
    assert len(around.told) == 2


async def test_when_there_is_no_other_it_is_said_who_cannot_reach_whom(around: Around) -> None:
    around.holders = {THIRDS[0]: [A], THIRDS[1]: [B], THIRDS[2]: [C]}
    session = await opened(around)
    swarm = asyncio.create_task(one_way_broken(around, session, A))
    try:
        with pytest.raises(ChainBroken, match=f"{A[:8]}.*cannot reach node {B[:8]}"):
            await step(session, b"in")
    finally:
        swarm.cancel()
    assert len(around.told) < 5


async def test_when_all_live_and_nothing_comes_one_after_the_other_is_replaced(
    around: Around, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardline.client.session.PROBE_S", 0.01)
    monkeypatch.setattr("shardline.client.session.STALL_S", 0.05)
    monkeypatch.setattr("shardline.client.session.STALL_TOKEN_S", 0.0)
    around.holders[THIRDS[1]] = [B, E]
    session = await opened(around)
    stepping = step(session, b"in")
    await around.sent.get()
    (last,) = await seats(around, session, 1)
    assert await around.sent.get() == (B, Reroute(session.id, 2, D), ())
    assert await around.sent.get() == (C, Close(session.id, 4), ())
    (middle,) = await seats(around, session, 1)
    assert (last.start, middle.start) == (4, 2)
    session.on_message(D, Result(session.id, 0, []), [b"out"])
    await stepping


# --- STANDBYS ---


async def opened_with_standbys(around: Around) -> RemoteSession:
    """A, B, C, and beside each of them D."""
    session = RemoteSession(around, "print", WHOLE, standby=True)
    opening = asyncio.create_task(session.open(rows=2, tokens=30))
    await seats(around, session, 3)
    await opening
    ahead = [(A, Reroute(session.id, 0, D, also=True)), (B, Reroute(session.id, 2, D, also=True))]
    first, *_ = await seats(around, session, 1)
    assert (first.start, first.next, first.fresh) == (0, B, False)
    for sender in ahead:
        await seats(around, session, 1)
        assert (await around.sent.get())[:2] == sender
    return session


async def test_a_standby_is_sent_the_steps_and_takes_over_with_the_last(around: Around) -> None:
    session = await opened_with_standbys(around)
    assert [hop.node for hop in session.standbys] == [D, D, D]
    stepping = step(session, b"in")
    ahead = [await around.sent.get() for _ in range(2)]
    assert [(node, cast("Step", message).replay) for node, message, _ in ahead] == [
        (A, False),
        (D, True),
    ]
    session.on_gone(B, NodeLost("b went away"))
    assert await around.sent.get() == (A, Reroute(session.id, 0, D), ()), "since step 0"
    session.on_message(C, Result(session.id, 0, []), [b"out"])
    await stepping
    (news,) = [news for news in around.told if isinstance(news, Mended)]
    assert news.standby
    assert news.hops == (Hop(D, THIRDS[1]),)
    await session.close()


async def test_the_callers_own_standby_is_sent_the_last_step_only(around: Around) -> None:
    session = await opened_with_standbys(around)
    for number in range(2):
        stepping = step(session, b"in %d" % number)
        assert {(await around.sent.get())[0] for _ in range(2)} == {A, D}
        session.on_message(C, Result(session.id, number, []), [b"out"])
        await stepping
    stepping = step(session, b"in 2")
    assert {(await around.sent.get())[0] for _ in range(2)} == {A, D}
    session.on_gone(A, NodeLost("a went away"))
    assert await around.sent.get() == (D, Step(session.id, 0, 2, ME, []), (b"in 2",))
    session.on_message(C, Result(session.id, 2, []), [b"out"])
    await stepping
    await session.close()


async def test_without_a_second_node_it_goes_on_and_says_so_once(around: Around) -> None:
    around.holders = {THIRDS[0]: [A], THIRDS[1]: [B], THIRDS[2]: [C]}
    session = RemoteSession(around, "print", WHOLE, standby=True)
    opening = asyncio.create_task(session.open(rows=2, tokens=30))
    await seats(around, session, 3)
    await opening
    await around.heard.wait()
    session.on_joined(E)
    await stepped(around, session, 0)
    assert [str(news)[-11:] for news in around.told] == ["s a standby"] * 3
    await session.close()


async def test_a_standby_that_fails_is_no_matter(around: Around) -> None:
    session = await opened_with_standbys(around)
    stepping = step(session, b"in")
    assert (await around.sent.get())[0] == A
    session.on_message(D, Failed.of(session.id, 0, D, StepFailed("out of memory")), ())
    session.on_message(A, Failed.of(session.id, 0, A, NodeLost("no way to d"), about=D), ())
    session.on_message(C, Result(session.id, 0, []), [b"out"])
    await stepping
    assert session.standbys == ()
    assert not [news for news in around.told if isinstance(news, Mended)]
    await session.close()


# --- THE END ---


async def test_closing_tells_every_node_that_may_hold_a_seat(around: Around) -> None:
    session = await opened(around)
    around.unreachable.add(A)
    await session.close()
    told = {(await around.sent.get())[:2] for _ in range(2)}
    assert told == {(B, Close(session.id)), (C, Close(session.id))}


async def test_messages_find_their_session_and_late_ones_are_passed_over(around: Around) -> None:
    session = await opened(around)
    sessions = Sessions()
    sessions.add(session)
    stepping = step(session)
    await around.sent.get()
    sessions.on_message(C, Result(session.id, 0, []), [b"out"])
    assert await stepping == ([b"out"], [])
    sessions.remove(session)
    sessions.on_message(C, Failed.of(session.id, 0, C, StepFailed("late")), ())
    sessions.on_gone(A, NodeLost("late"))


def test_the_overhead_is_what_no_node_computed_for_each_link() -> None:
    times = StepTimes(wall_s=0.009, nodes_s=(0.002, 0.004), moved_bytes=0)
    assert times.overhead_ms == pytest.approx(1.0)


# --- TERMS ---

COARSE = Terms("int8", 128)


async def coarse(around: Around) -> tuple[RemoteSession, list[Open]]:
    session = RemoteSession(around, "print", WHOLE, terms=COARSE)
    opening = asyncio.create_task(session.open(rows=2, tokens=30))
    given = await seats(around, session, 3)
    await opening
    return session, given


async def test_each_sender_is_told_what_its_receiver_reads_and_the_session_allows(
    around: Around,
) -> None:
    around.exact = {B}
    _, given = await coarse(around)
    assert [(seat.next, seat.wire, seat.block) for seat in given] == [
        (B, "raw", 128),
        (C, "int8", 128),
        (None, "int8", 128),
    ]


async def test_nothing_but_raw_is_allowed_unless_the_caller_says_so(around: Around) -> None:
    session = RemoteSession(around, "print", WHOLE)
    opening = asyncio.create_task(session.open(rows=1, tokens=30))
    assert {seat.wire for seat in await seats(around, session, 3)} == {"raw"}
    await opening


async def test_whoever_is_rerouted_is_told_what_the_new_one_reads(around: Around) -> None:
    around.exact = {D}
    session, _ = await coarse(around)
    stepping = step(session, b"in")
    await around.sent.get()
    session.on_gone(B, NodeLost("b went away"))
    (seat,) = await seats(around, session, 1)
    assert (seat.next, seat.wire) == (C, "int8")
    assert await around.sent.get() == (A, Reroute(session.id, 0, D, wire="raw"), ())
    session.on_gone(D, NodeLost("d went away"))
    around.holders[THIRDS[1]] = [E]
    await seats(around, session, 1)
    assert await around.sent.get() == (A, Reroute(session.id, 0, E, wire="int8"), ())
    session.on_message(C, Result(session.id, 0, []), [b"out"])
    await stepping


async def test_a_first_node_that_reads_raw_only_is_sent_the_values_that_the_dead_one_had(
    around: Around,
) -> None:
    around.exact = {D}
    session, _ = await coarse(around)
    hidden = torch.randn(2, 1, 128)
    segments = pack({"hidden": hidden}, (hidden,), session.encoder)
    stepping = asyncio.create_task(session.step(segments, as_it_came, rows=2, tokens=1))
    _, _, first = await around.sent.get()
    session.on_gone(A, NodeLost("a went away"))
    await seats(around, session, 1)
    node, _, again = await around.sent.get()
    assert node == D
    assert [len(bytes(segment)) for segment in (first[1], again[1])] == [2 * 132, hidden.nbytes]
    before, after = (cast("Any", unpack(sent))["hidden"] for sent in (first, again))
    assert torch.equal(before, after)
    stepping.cancel()


async def test_a_node_that_computes_long_is_waited_for_where_nobody_else_holds_its_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(seating, "OPEN_S", 0.02)
    monkeypatch.setattr(seating, "SIGN_S", 0.02)
    around = Around({THIRDS[0]: [A], THIRDS[1]: [B], THIRDS[2]: [C, D]})
    session = RemoteSession(around, "print", WHOLE)
    opening = asyncio.create_task(session.open(rows=2, tokens=30))
    asked = {(await around.sent.get())[0] for _ in range(3)}
    assert asked == {A, B, C}
    for node, start in ((A, 0), (B, 2)):  # C is late, and D could do it
        session.on_message(node, Opened(session.id, node, start), ())
    again: dict[NodeId, int] = {}
    while len(again) < 3:
        node, message, _ = await around.sent.get()
        if isinstance(message, Open):
            again[node] = message.start
    assert again.keys() == {A, B, D}
    session.on_message(D, Opened(session.id, D, 4), ())
    session.on_message(A, Opened(session.id, A, 0), ())
    for _ in range(3):  # B gives no seat, and signs of life
        around.asked.clear()
        await around.asked.wait()
    assert not opening.done()
    session.on_message(B, Opened(session.id, B, 2), ())
    await opening
    assert [hop.node for hop in session.chain] == [A, B, D]


@pytest.mark.parametrize("dead", [False, True])
async def test_it_is_not_waited_for_if_it_gives_no_sign_of_life_or_takes_too_long(
    monkeypatch: pytest.MonkeyPatch, *, dead: bool
) -> None:
    monkeypatch.setattr(seating, "OPEN_S", 0.02)
    monkeypatch.setattr(seating, "SIGN_S", 0.02)
    monkeypatch.setattr(seating, "BUSY_S", 60.0 if dead else 0.1)
    around = Around({WHOLE: [A]}, silent={A} if dead else set())
    with pytest.raises(ChainBroken, match="no sign of life" if dead else "gave no seat"):
        await RemoteSession(around, "print", WHOLE).open(rows=2, tokens=30)
