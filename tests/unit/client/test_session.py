import asyncio
from collections.abc import Sequence

import pytest

from shardline.client.session import ChainBroken, RemoteSession, Sessions, StepTimes
from shardline.core.errors import CacheFull, NodeLost, ShardlineError
from shardline.core.ids import NodeId
from shardline.core.segments import Segment
from shardline.core.spans import Span
from shardline.swarm import Hop
from shardline.wire import Close, Failed, Message, Open, Opened, Result, Spent, Step

pytestmark = pytest.mark.anyio

ME, A, B, STRANGER = (NodeId(digit * 64) for digit in "0abf")
CHAIN = (Hop(A, Span(0, 2)), Hop(B, Span(2, 5)))


class Post:
    """Keeps what is sent; nodes that are gone cannot be reached."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[tuple[NodeId, Message, Sequence[Segment]]] = asyncio.Queue()
        self.gone: set[NodeId] = set()

    async def send(self, peer: NodeId, message: Message, segments: Sequence[Segment] = ()) -> None:
        if peer in self.gone:
            raise NodeLost(f"{peer[:8]} is gone")
        await self.sent.put((peer, message, segments))


@pytest.fixture
def post() -> Post:
    return Post()


async def opened(post: Post) -> RemoteSession:
    session = RemoteSession(post, ME, CHAIN, "print")
    opening = asyncio.create_task(session.open(rows=2, tokens=30))
    for hop in CHAIN:
        await post.sent.get()
        session.on_message(hop.node, Opened(session.id, hop.node), ())
    await opening
    return session


async def test_every_node_is_told_its_span_and_who_comes_next(post: Post) -> None:
    session = RemoteSession(post, ME, CHAIN, "print")
    opening = asyncio.create_task(session.open(rows=2, tokens=30))
    first, second = await post.sent.get(), await post.sent.get()
    assert first[:2] == (A, Open(session.id, ME, "print", 0, 2, B, 30, 2))
    assert second[:2] == (B, Open(session.id, ME, "print", 2, 5, None, 30, 2))
    session.on_message(B, Opened(session.id, B), ())
    session.on_message(STRANGER, Opened(session.id, A), ())
    assert not opening.done()
    session.on_message(A, Opened(session.id, A), ())
    await opening


async def test_a_step_goes_to_the_first_node_and_comes_from_the_last(post: Post) -> None:
    session = await opened(post)
    stepping = asyncio.create_task(session.step([b"abc"]))
    assert await post.sent.get() == (A, Step(session.id, 0, []), [b"abc"])
    spent = [Spent("a", 1_000, 50), Spent("b", 2_000, 7)]
    session.on_message(A, Result(session.id, 0, spent), [b"not the last node"])
    session.on_message(B, Result(session.id, 9, spent), [b"a late or early step"])
    session.on_message(B, Result(session.id, 0, spent), [b"out"])
    assert await stepping == ([b"out"], spent)


async def test_a_node_that_refuses_is_named_with_its_own_reason(post: Post) -> None:
    session = RemoteSession(post, ME, CHAIN, "print")
    opening = asyncio.create_task(session.open(rows=1, tokens=30))
    await post.sent.get()
    session.on_message(B, Failed.of(session.id, None, B, CacheFull("30 asked, 4 free")), ())
    with pytest.raises(ChainBroken, match="30 asked, 4 free") as broken:
        await opening
    assert broken.value.node == B
    assert isinstance(broken.value.cause, CacheFull)


async def test_a_node_that_leaves_ends_the_step_that_waits_and_all_later_ones(post: Post) -> None:
    session = await opened(post)
    stepping = asyncio.create_task(session.step([b"x"]))
    await post.sent.get()
    session.on_left(STRANGER)
    session.on_left(B)
    with pytest.raises(ChainBroken, match="went away"):
        await stepping
    with pytest.raises(ChainBroken, match="went away"):
        await session.step([b"y"])


async def test_a_node_that_cannot_be_reached_is_named(post: Post) -> None:
    post.gone.add(B)
    session = RemoteSession(post, ME, CHAIN, "print")
    with pytest.raises(ChainBroken, match="gone") as broken:
        await session.open(rows=1, tokens=3)
    assert broken.value.node == B


async def test_closing_tells_every_node_that_is_left(post: Post) -> None:
    session = await opened(post)
    post.gone.add(A)
    await session.close()
    assert await post.sent.get() == (B, Close(session.id), ())


async def test_messages_find_their_session_and_late_ones_are_passed_over(post: Post) -> None:
    session = await opened(post)
    sessions = Sessions()
    sessions.add(session)
    stepping = asyncio.create_task(session.step([]))
    await post.sent.get()
    sessions.on_message(B, Result(session.id, 0, []), [b"out"])
    assert await stepping == ([b"out"], [])
    sessions.remove(session)
    sessions.on_message(B, Failed.of(session.id, 0, B, ShardlineError("late")), ())
    sessions.on_left(A)


def test_the_overhead_is_what_no_node_computed_for_each_link() -> None:
    times = StepTimes(wall_s=0.009, nodes_s=(0.002, 0.004), moved_bytes=0)
    assert times.overhead_ms == pytest.approx(1.0)
