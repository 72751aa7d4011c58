"""What every transport promises."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from shardline.core.errors import NodeLost
from shardline.wire import ChannelClosed
from tests.conformance.transports import TRANSPORTS, KeySigner, Network

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from shardline.wire import Pipe, Transport

DEADLINE_S = 10
MIB = 2**20

pytestmark = pytest.mark.anyio


@pytest.fixture(params=list(TRANSPORTS))
async def network(request: pytest.FixtureRequest) -> AsyncGenerator[Network]:
    make = TRANSPORTS[request.param]
    async with make() as network, asyncio.timeout(6 * DEADLINE_S):
        yield network


@pytest.fixture
async def ends(network: Network) -> tuple[Transport, Transport]:
    return (
        await network.join(KeySigner().node_id),
        await network.join(KeySigner().node_id),
    )


async def joined(caller: Transport, called: Transport) -> tuple[Pipe, Pipe]:
    async with asyncio.timeout(DEADLINE_S):
        near, far = await asyncio.gather(caller.open(called.me), called.accept())
    for pipe in (near, far):
        pipe.widen(64 * MIB)
    return near, far


@pytest.fixture
async def pipe(ends: tuple[Transport, Transport]) -> tuple[Pipe, Pipe]:
    return await joined(*ends)


async def test_a_pipe_names_both_ends(ends: tuple[Transport, Transport]) -> None:
    near, far = await joined(*ends)
    assert (near.peer, far.peer) == (ends[1].me, ends[0].me)


async def test_frames_of_all_sizes_arrive_whole_and_in_order(pipe: tuple[Pipe, Pipe]) -> None:
    frames = [bytes([n % 256]) * size for n, size in enumerate([1, 70_000, 2, MIB, 3, 17] * 20)]

    async def send() -> None:
        for frame in frames:
            await pipe[0].send(frame)

    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        group.create_task(send())
        for frame in frames:
            assert await pipe[1].receive() == frame


async def test_frames_go_both_ways_at_once(pipe: tuple[Pipe, Pipe]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        for end, greeting in zip(pipe, (b"to called", b"to caller"), strict=True):
            await end.send(greeting)
        assert await pipe[0].receive() == b"to caller"
        assert await pipe[1].receive() == b"to called"


async def test_a_small_frame_on_an_idle_link_needs_no_wait(pipe: tuple[Pipe, Pipe]) -> None:
    assert pipe[0].send_now(bytearray(b"small"))
    async with asyncio.timeout(DEADLINE_S):
        assert await pipe[1].receive() == b"small"


async def test_two_pipes_between_the_same_nodes_do_not_mix(
    ends: tuple[Transport, Transport],
) -> None:
    first, second = await joined(*ends), await joined(*ends[::-1])
    async with asyncio.timeout(DEADLINE_S):
        await second[1].send(b"on the second")
        await first[0].send(b"on the first")
        assert await first[1].receive() == b"on the first"
        assert await second[0].receive() == b"on the second"


@pytest.mark.parametrize("closer", [0, 1], ids=["caller", "called"])
async def test_a_closed_pipe_ends_after_what_was_sent(pipe: tuple[Pipe, Pipe], closer: int) -> None:
    near, far = pipe[closer], pipe[1 - closer]
    async with asyncio.timeout(DEADLINE_S):
        await near.send(b"last words")
        near.close()
        assert await far.receive() == b"last words"
        with pytest.raises(ChannelClosed):
            await far.receive()
        with pytest.raises(ChannelClosed):
            await near.receive()
        with pytest.raises(ChannelClosed):
            far.send_now(b"too late")
        with pytest.raises(ChannelClosed):
            await near.send(b"too late")


async def test_closing_twice_is_closing(pipe: tuple[Pipe, Pipe]) -> None:
    pipe[0].close()
    pipe[0].close()


async def test_a_reader_that_waits_learns_of_the_end(pipe: tuple[Pipe, Pipe]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        reading = asyncio.create_task(pipe[1].receive())
        pipe[0].close()
        with pytest.raises(ChannelClosed):
            await reading


async def test_a_transport_that_closes_ends_its_pipes(
    ends: tuple[Transport, Transport],
) -> None:
    _, far = await joined(*ends)
    ends[0].close()
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(ChannelClosed):
            await far.receive()
        with pytest.raises(ChannelClosed):
            await ends[0].accept()
        with pytest.raises(ChannelClosed):
            await ends[0].open(ends[1].me)
        with pytest.raises(NodeLost):
            await ends[1].open(ends[0].me)


async def test_nobody_at_the_other_end_is_said_soon(ends: tuple[Transport, Transport]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(NodeLost):
            await ends[0].open(KeySigner().node_id)


async def test_a_node_that_has_just_joined_can_be_called(network: Network) -> None:
    first = await network.join(KeySigner().node_id)
    for _ in range(3):
        near, far = await joined(first, await network.join(KeySigner().node_id))
        await near.send(b"welcome")
        assert await far.receive() == b"welcome"


async def test_a_stranger_cannot_make_us_hold_much(ends: tuple[Transport, Transport]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        near, far = await asyncio.gather(ends[0].open(ends[1].me), ends[1].accept())
        near.widen(MIB)
        await near.send(bytes(8_192))
        with pytest.raises(ChannelClosed):
            await far.receive()
        with pytest.raises(ChannelClosed):
            await near.receive()


async def send_without_end(pipe: Pipe) -> None:
    while True:
        await pipe.send(bytes(MIB))
        await asyncio.sleep(0)


async def test_a_sender_beyond_the_bound_is_cut_off_and_others_are_not(
    ends: tuple[Transport, Transport],
) -> None:
    near, far = await joined(*ends)
    other_near, other_far = await joined(*ends)
    far.widen(3 * MIB)
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(ChannelClosed):
            await send_without_end(near)
        with pytest.raises(ChannelClosed):
            await far.receive()
        await other_near.send(b"still here")
        assert await other_far.receive() == b"still here"
