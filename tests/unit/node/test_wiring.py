"""In which codec a seat writes: as agreed, and never so that its receiver cannot read it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import torch

from shardline.codec import Marker, unpack
from shardline.core.ids import NodeId, Seat, SessionId
from shardline.core.spans import Span
from shardline.model import Call, Crossing, Returned
from shardline.node.outbox import Outbox
from shardline.node.seats import SeatState
from shardline.node.wiring import Wires, Wiring
from shardline.wire import Reroute, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardline.core.errors import ShardlineError
    from shardline.core.segments import Segment
    from shardline.wire import Message

HIDDEN = torch.randn(1, 3, 128)
MASK = torch.randn(1, 1, 3, 3)
ONWARD = Crossing(2, (HIDDEN,), (Call((), {"mask": MASK}),), (0, 0))
RETURNED = Returned((HIDDEN, Marker("cache"), MASK), ((0,),))
INT8 = Wires("int8")


def wiring(own: Wires, *allowed: str, block: int = 4_096) -> Wiring:
    turned = Wiring(own, block)
    for wire in allowed:
        turned.turn_to(wire)
    return turned


def hidden_of(segments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The hidden state and the mask, whichever way they crossed."""
    tree: Any = unpack([bytes(segment) for segment in segments])
    if "output" in tree:
        return tree["output"][0], tree["output"][2]
    return tree["carried"][0], tree["calls"][0][1]["mask"]


@pytest.mark.parametrize("out", [ONWARD, RETURNED], ids=["onward", "returned"])
def test_the_hidden_state_alone_loses_digits_on_to_a_node_and_back_to_the_caller(
    out: Crossing | Returned,
) -> None:
    written = wiring(INT8, "int8").write(out)
    hidden, mask = hidden_of(written.segments)
    assert torch.equal(mask, MASK)
    assert not torch.equal(hidden, HIDDEN)
    torch.testing.assert_close(hidden, HIDDEN, rtol=0, atol=0.01 * float(HIDDEN.abs().max()))
    assert (written.wire, written.saved_bytes) == ("int8", 3 * 128 * 4 - 3 * (128 + 4))


@pytest.mark.parametrize(("own", "allowed"), [(INT8, "raw"), (Wires(), "int8"), (INT8, "int4")])
def test_where_the_session_or_the_node_says_raw_all_is_exact(own: Wires, allowed: str) -> None:
    written = wiring(own, allowed).write(RETURNED)
    assert torch.equal(hidden_of(written.segments)[0], HIDDEN)
    assert (written.wire, written.saved_bytes) == ("raw", 0)
    assert written.size_bytes == sum(segment.nbytes for segment in written.segments)


def test_the_block_is_the_sessions() -> None:
    saved = [wiring(INT8, "int8", block=block).write(ONWARD).saved_bytes for block in (64, 128)]
    assert saved[1] - saved[0] == 3 * 4, "half as many scales"


def test_what_was_written_for_another_is_read_by_who_reads_raw_only_with_the_same_values() -> None:
    turned = wiring(INT8, "int8")
    kept = turned.write(ONWARD).segments
    assert turned.readable(kept) is kept
    for readable in (turned.readable(kept, "raw"), wiring(INT8, "int8", "raw").readable(kept)):
        assert torch.equal(hidden_of(readable)[0], hidden_of(kept)[0])
        size_bytes = sum(memoryview(segment).nbytes for segment in readable)
        assert size_bytes > HIDDEN.nbytes, "it is raw"


def test_in_a_raw_session_nothing_is_written_twice() -> None:
    turned = wiring(INT8, "raw")
    kept = turned.write(ONWARD).segments
    assert turned.readable(kept) is kept
    assert turned.readable(kept, "raw") is kept


# --- WHAT IS SENT AGAIN ---

ME, CALLER, NEXT, NEW = (NodeId(digit * 64) for digit in "0cde")
SEAT = Seat(SessionId("1" * 32), 0)


class Post:
    """Keeps what is sent to whom."""

    def __init__(self) -> None:
        self.sent: list[tuple[NodeId, list[bytes]]] = []
        self.behind: list[int] = []
        """What each step said of those that follow."""
        self.news = asyncio.Event()

    async def send(self, peer: NodeId, message: Message, segments: Sequence[Segment] = ()) -> None:
        assert isinstance(message, Step)
        self.behind.append(message.behind)
        self.sent.append((peer, [bytes(segment) for segment in segments]))
        self.news.set()

    def send_now(self, peer: NodeId, message: Message, segments: Sequence[Segment] = ()) -> bool:
        del peer, message, segments
        return False

    def hang_up(self, peer: NodeId, error: ShardlineError) -> None:
        raise AssertionError(peer) from error


@pytest.fixture
async def at_work() -> tuple[Outbox, Post, SeatState]:
    """A seat that has sent one step in 8 bits."""
    post = Post()
    outbox = Outbox(ME, post)
    state = SeatState(CALLER, Span(0, 2), NEXT, 0, wiring=wiring(INT8, "int8"))
    segments = state.wiring.write(ONWARD).segments
    await outbox.send_on(SEAT, state, 0, segments, replayed=False)
    state.expected = 1
    return outbox, post, state


@pytest.mark.anyio
@pytest.mark.parametrize("allowed", ["int8", "raw"])
async def test_a_replacement_is_sent_the_values_that_the_dead_one_had(
    at_work: tuple[Outbox, Post, SeatState], allowed: str
) -> None:
    outbox, post, state = at_work
    await outbox.send_all_to(SEAT, state, Reroute(SEAT.session, 0, NEW, wire=allowed))
    (_, first), (peer, again) = post.sent
    assert peer == NEW
    assert (again == first) == (allowed == "int8")
    assert torch.equal(hidden_of(again)[0], hidden_of(first)[0])
    assert state.wiring.write(ONWARD).wire == allowed, "and what follows is written for it"


@pytest.mark.anyio
@pytest.mark.parametrize("allowed", ["int8", "raw"])
async def test_a_standby_is_sent_the_same_values_as_the_hop(
    at_work: tuple[Outbox, Post, SeatState], allowed: str
) -> None:
    outbox, post, state = at_work
    post.news.clear()
    reroute = Reroute(SEAT.session, 0, NEW, also=True, wire=allowed)
    ahead = asyncio.create_task(outbox.send_ahead(SEAT, state, reroute))
    async with asyncio.timeout(60):
        await post.news.wait()
    (_, first), (peer, beside) = post.sent
    assert peer == NEW
    assert (beside == first) == (allowed == "int8")
    assert torch.equal(hidden_of(beside)[0], hidden_of(first)[0])
    assert state.wiring.write(ONWARD).wire == "int8", "the hop itself reads 8 bits"
    state.close()
    await ahead


@pytest.mark.anyio
async def test_what_is_sent_again_says_of_nobody_that_he_follows(
    at_work: tuple[Outbox, Post, SeatState],
) -> None:
    outbox, post, state = at_work
    segments = state.wiring.write(ONWARD).segments
    state.behind = 3
    await outbox.send_on(SEAT, state, 1, segments, replayed=False)
    await outbox.send_again(SEAT, state)
    state.next_has, state.behind = 9, 3  # the next node has it: nothing is sent
    await outbox.send_on(SEAT, state, 2, segments, replayed=True)
    await outbox.send_again(SEAT, state)
    assert post.behind == [0, 3, 0, 0]
