"""Bursts: who answers them and when, what a liar can say, and that both ways are clocked here."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec
import pytest

from shardline.core.errors import PeerFault, ShardlineError
from shardline.core.ids import PROTOCOL
from shardline.wire import BURST_BYTES_MAX, Message, Switchboard
from shardline.wire.bursts import RATION_BYTES, RATION_S, Bursts
from shardline.wire.channel import Channel, call
from shardline.wire.handshake import Identity
from shardline.wire.messages import Ping, Pong, decode_message, encode_message
from tests.conformance.transports import TRANSPORTS, KeySigner

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from shardline.core.ids import NodeId
    from tests.conformance.transports import Network

DEADLINE_S = 60.0
MEMBER = b"m" * 32


def taken(bursts: Bursts, ping: Ping, *burst: bytes) -> tuple[Pong, list[bytes]]:
    with bursts.answer(ping, burst) as answer:
        return answer


# --- WHO ANSWERS ---


def test_what_came_is_proven_and_what_was_wanted_is_sent() -> None:
    bursts = Bursts(lambda: 0.0)
    assert taken(bursts, Ping(1), b"abc") == (Pong(1, sha256(b"abc").digest()), [])
    assert taken(bursts, Ping(2, 5)) == (Pong(2), [bytes(5)])
    assert taken(bursts, Ping(3)) == (Pong(3), [])


def test_one_burst_is_answered_at_a_time_and_none_beside_ones_own() -> None:
    bursts = Bursts(lambda: 0.0)
    with bursts.answer(Ping(1, 5), []) as (_, first):
        assert first
        assert taken(bursts, Ping(2, 5)) == (Pong(2), [])
        assert taken(bursts, Ping(3), b"abc") == (Pong(3), [])
        assert taken(bursts, Ping(4)) == (Pong(4), [])
    with bursts.taken() as free:
        assert free
        assert taken(bursts, Ping(5), b"abc") == (Pong(5), [])
    assert taken(bursts, Ping(6, 5))[1]


def test_what_all_peers_together_can_ask_for_is_rationed() -> None:
    now_s = 0.0
    bursts = Bursts(lambda: now_s)
    wants = [Ping(nonce, BURST_BYTES_MAX) for nonce in range(20)]
    sent = [sum(map(len, taken(bursts, ping)[1])) for ping in wants]
    assert sum(sent) == RATION_BYTES
    now_s = RATION_S
    assert taken(bursts, Ping(1), bytes(BURST_BYTES_MAX))[0].proof


@pytest.mark.parametrize("burst", [[bytes(BURST_BYTES_MAX + 1)], [b"a", b"b"]])
def test_a_ping_of_too_much_is_a_fault(burst: list[bytes]) -> None:
    with pytest.raises(PeerFault, match="a ping of"):
        taken(Bursts(lambda: 0.0), Ping(1), *burst)


def test_nobody_can_ask_for_more_than_the_largest_burst() -> None:
    data = encode_message(Ping(1, BURST_BYTES_MAX + 1))
    with pytest.raises(msgspec.ValidationError):
        decode_message(data)


def test_a_version_without_bursts_is_understood() -> None:
    assert decode_message(msgspec.msgpack.encode(["ping", 7])) == Ping(7)
    assert decode_message(msgspec.msgpack.encode(["pong", 7])) == Pong(7)


# --- OVER THE WIRE ---


def ignore(_peer: NodeId, _message: Message, _segments: list[memoryview]) -> None:
    """Only pings are sent here."""


@pytest.fixture(params=list(TRANSPORTS))
async def network(request: pytest.FixtureRequest) -> AsyncGenerator[Network]:
    async with asyncio.timeout(DEADLINE_S), TRANSPORTS[request.param]() as network:
        yield network


async def board_in(network: Network, stack: AsyncExitStack) -> Switchboard:
    signer = KeySigner()
    transport = await network.join(signer.node_id)
    return await stack.enter_async_context(Switchboard(transport, signer, MEMBER, ignore))


@pytest.mark.anyio
async def test_bursts_are_clocked_both_ways_over_every_transport(network: Network) -> None:
    async with AsyncExitStack() as stack:
        a, b = [await board_in(network, stack) for _ in range(2)]
        assert await a.burst(b.me, up_bytes=BURST_BYTES_MAX)
        assert await a.burst(b.me, down_bytes=BURST_BYTES_MAX)
        assert await b.burst(a.me, up_bytes=1)
        assert await a.burst(a.me, up_bytes=1) is None


LIES = {
    "more than was wanted": (b"", 7),
    "less than was wanted": (b"", 5),
    "a proof of what was not sent": (b"x" * 32, 0),
}


@pytest.mark.anyio
@pytest.mark.parametrize("lie", LIES)
async def test_a_liar_about_a_burst_is_cut_off(lie: str) -> None:
    proof, size = LIES[lie]
    lost: asyncio.Queue[ShardlineError] = asyncio.Queue()
    async with asyncio.timeout(DEADLINE_S), TRANSPORTS["memory"]() as network:
        signer, liar = KeySigner(), KeySigner()
        transport = await network.join(signer.node_id)
        board = Switchboard(
            transport, signer, MEMBER, ignore, lambda _, error: lost.put_nowait(error)
        )
        async with board:
            channel = await called(network, liar, signer.node_id)
            asking = asyncio.create_task(board.burst(liar.node_id, down_bytes=6))
            ping, _ = await channel.receive()
            assert isinstance(ping, Ping)
            await channel.send(Pong(ping.nonce, proof), [bytes(size)] if size else [])
            with pytest.raises(PeerFault, match="none"):
                await asking
            assert isinstance(await lost.get(), PeerFault)


@pytest.mark.anyio
async def test_who_does_not_know_bursts_or_has_no_time_gives_no_time() -> None:
    async with (
        asyncio.timeout(DEADLINE_S),
        TRANSPORTS["memory"]() as network,
        AsyncExitStack() as stack,
    ):
        board, other = await board_in(network, stack), KeySigner()
        channel = await called(network, other, board.me)
        asking = asyncio.create_task(board.burst(other.node_id, up_bytes=6))
        ping, burst = await channel.receive()
        assert isinstance(ping, Ping)
        assert [len(part) for part in burst] == [6]
        assert await board.burst(other.node_id, up_bytes=6) is None, "one at a time"
        await channel.send(Pong(ping.nonce))
        assert await asking is None


async def called(network: Network, signer: KeySigner, peer: NodeId) -> Channel:
    """A channel of somebody who answers by hand."""
    pipe = await (await network.join(signer.node_id)).open(peer)
    return await call(pipe, Identity(signer, MEMBER, b"1" * 8, PROTOCOL), 2**20)
