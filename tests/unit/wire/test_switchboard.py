"""The Switchboard over every transport of the conformance list."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from shardline.core.errors import (
    ForeignInvite,
    NodeLost,
    PeerFault,
    ProtocolMismatch,
    ShardlineError,
    Unsupported,
)
from shardline.core.ids import PROTOCOL, NodeId, SessionId
from shardline.wire import ChannelClosed, MemoryNetwork, Message, Ping, Step, Switchboard
from shardline.wire.channel import call
from shardline.wire.handshake import Established, Identity, Initiator
from tests.conformance.transports import TRANSPORTS, KeySigner, Network

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from shardline.wire import Pipe, Transport

DEADLINE_S = 10
MEMBER = b"m" * 32
SESSION = SessionId("cd" * 16)
NODE = NodeId("ab" * 32)

pytestmark = pytest.mark.anyio


def step(number: int) -> Step:
    return Step(SESSION, 0, number, NODE, [])


class Node:
    """A switchboard that keeps what it hears."""

    def __init__(
        self,
        transport: Transport,
        signer: KeySigner,
        *,
        membership_key: bytes = MEMBER,
        protocol: int = PROTOCOL,
        frame_bytes_max: int = 2**26,
    ) -> None:
        self.id = signer.node_id
        self.heard: asyncio.Queue[tuple[NodeId, Message, list[memoryview]]] = asyncio.Queue()
        self.lost: asyncio.Queue[tuple[NodeId, ShardlineError]] = asyncio.Queue()
        self.board = Switchboard(
            transport,
            signer,
            membership_key,
            self.hear,
            lambda peer, error: self.lost.put_nowait((peer, error)),
            protocol=protocol,
            frame_bytes_max=frame_bytes_max,
        )

    def hear(self, peer: NodeId, message: Message, segments: list[memoryview]) -> None:
        if message == step(666):
            raise PeerFault("a step that no node would send")
        self.heard.put_nowait((peer, message, segments))


class Swarm:
    """Nodes that meet in one network."""

    def __init__(self, network: Network, stack: AsyncExitStack) -> None:
        self.network = network
        self._stack = stack

    async def node(
        self,
        signer: KeySigner | None = None,
        *,
        membership_key: bytes = MEMBER,
        protocol: int = PROTOCOL,
        frame_bytes_max: int = 2**26,
    ) -> Node:
        signer = signer or KeySigner()
        transport = await self.network.join(signer.node_id)
        node = Node(
            transport,
            signer,
            membership_key=membership_key,
            protocol=protocol,
            frame_bytes_max=frame_bytes_max,
        )
        await self._stack.enter_async_context(node.board)
        return node


@pytest.fixture(params=list(TRANSPORTS))
async def swarm(request: pytest.FixtureRequest) -> AsyncGenerator[Swarm]:
    async with TRANSPORTS[request.param]() as network, AsyncExitStack() as stack:
        async with asyncio.timeout(6 * DEADLINE_S):
            yield Swarm(network, stack)


async def hears(node: Node, sender: Node, message: Message, *segments: bytes) -> None:
    async with asyncio.timeout(DEADLINE_S):
        assert await node.heard.get() == (sender.id, message, list(segments))


async def test_messages_and_segments_arrive_from_a_proven_peer(swarm: Swarm) -> None:
    a, b = await swarm.node(), await swarm.node()
    await a.board.send(b.id, step(1), [b"hidden", b"", bytearray(b"mask")])
    await hears(b, a, step(1), b"hidden", b"", b"mask")
    await b.board.send(a.id, step(2))
    await hears(a, b, step(2))
    assert (a.board.peers, b.board.peers) == ((b.id,), (a.id,))


async def test_small_and_large_messages_keep_their_order(swarm: Swarm) -> None:
    a, b = await swarm.node(), await swarm.node()
    sizes = [10, 3 * 2**20, 10, 100_000, 2**20, 1, 5 * 2**20, 2]
    async with asyncio.TaskGroup() as group:
        for number, size in enumerate(sizes):
            group.create_task(a.board.send(b.id, step(number), [bytes([number]) * size]))
    for number, size in enumerate(sizes):
        await hears(b, a, step(number), bytes([number]) * size)


async def test_a_send_that_is_given_up_does_not_hurt_the_next(swarm: Swarm) -> None:
    a, b = await swarm.node(), await swarm.node()
    await a.board.ping(b.id)
    sends = [asyncio.create_task(a.board.send(b.id, step(n), [bytes(4 * 2**20)])) for n in range(4)]
    await asyncio.sleep(0)
    for send in sends[1:]:
        send.cancel()
    await a.board.send(b.id, step(9))
    async with asyncio.timeout(DEADLINE_S):
        while (await b.heard.get())[1] != step(9):
            pass


async def test_nodes_that_dial_each_other_at_once_both_get_through(swarm: Swarm) -> None:
    a, b = await swarm.node(), await swarm.node()
    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(a.board.send(b.id, step(number)))
            group.create_task(b.board.send(a.id, step(number)))
    for number in range(3):
        await hears(a, b, step(number))
        await hears(b, a, step(number))


async def test_a_message_to_oneself_comes_back(swarm: Swarm) -> None:
    a = await swarm.node()
    await a.board.send(a.id, step(1), [b"own"])
    await hears(a, a, step(1), b"own")
    assert await a.board.ping(a.id) == 0


async def test_a_ping_takes_some_time(swarm: Swarm) -> None:
    a, b = await swarm.node(), await swarm.node()
    assert 0 < await a.board.ping(b.id) < DEADLINE_S * 1e3
    assert 0 < await b.board.ping(a.id) < DEADLINE_S * 1e3


async def test_nobody_at_the_other_end_is_a_lost_node(swarm: Swarm) -> None:
    a = await swarm.node()
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(NodeLost, match="cannot be reached"):
            await a.board.send(KeySigner().node_id, step(1))


async def test_a_caller_that_gives_up_leaves_the_dial_to_others(swarm: Swarm) -> None:
    a, b = await swarm.node(), await swarm.node()
    first = asyncio.create_task(a.board.send(b.id, step(1)))
    second = asyncio.create_task(a.board.send(b.id, step(2)))
    await asyncio.sleep(0)
    first.cancel()
    await second
    await hears(b, a, step(2))


async def test_swarms_with_different_keys_cannot_talk(
    swarm: Swarm, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = await swarm.node(), await swarm.node(membership_key=b"x" * 32)
    with pytest.raises(ForeignInvite):
        await a.board.send(b.id, step(1))
    with pytest.raises(ForeignInvite):
        await b.board.send(a.id, step(1))
    assert a.heard.empty()
    assert b.heard.empty()
    assert "refused a caller" in caplog.text


async def test_both_sides_are_told_both_versions(
    swarm: Swarm, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = await swarm.node(), await swarm.node(protocol=PROTOCOL + 1)
    with pytest.raises(ProtocolMismatch, match=f"protocol {PROTOCOL + 1}, this one {PROTOCOL}:"):
        await a.board.send(b.id, step(1))
    assert f"speaks protocol {PROTOCOL}, this one {PROTOCOL + 1}" in caplog.text


async def test_a_peer_that_breaks_the_protocol_is_cut_off_and_others_are_served(
    swarm: Swarm, caplog: pytest.LogCaptureFixture
) -> None:
    a, b, c = await swarm.node(), await swarm.node(), await swarm.node()
    await c.board.send(b.id, step(0))
    await hears(b, c, step(0))
    await a.board.send(b.id, step(666))
    async with asyncio.timeout(DEADLINE_S):
        peer, error = await b.lost.get()
        assert (peer, type(error)) == (a.id, PeerFault)
        assert (await a.lost.get())[0] == b.id
    await c.board.send(b.id, step(1))
    await hears(b, c, step(1))
    assert caplog.text.count("cut off node") == 1
    await a.board.send(b.id, step(2))
    await hears(b, a, step(2))


async def handshake(pipe: Pipe, identity: Identity) -> Established:
    initiator = Initiator(identity, pipe.peer)
    await pipe.send(initiator.hello())
    await pipe.send(initiator.answer(await pipe.receive()))
    return initiator.welcomed(await pipe.receive())


async def test_garbage_and_oversize_under_a_good_seal_are_cut_off(
    swarm: Swarm, caplog: pytest.LogCaptureFixture
) -> None:
    b, c = await swarm.node(frame_bytes_max=2**16), await swarm.node()
    evil = KeySigner()
    identity = Identity(evil, MEMBER, bytes(8))
    transport = await swarm.network.join(evil.node_id)
    for junk in (b"no frame at all", bytes(2**16 + 1), b""):
        async with asyncio.timeout(DEADLINE_S):
            pipe = await transport.open(b.id)
            sealer = (await handshake(pipe, identity)).sealer
            await pipe.send(sealer.seal((junk,), len(junk)))
            peer, error = await b.lost.get()
            assert (peer, type(error)) == (evil.node_id, PeerFault)
    await c.board.send(b.id, step(1))
    await hears(b, c, step(1))
    assert caplog.text.count("cut off node") == 3


async def test_garbage_instead_of_a_handshake_is_refused(
    swarm: Swarm, caplog: pytest.LogCaptureFixture
) -> None:
    b, c = await swarm.node(), await swarm.node()
    transport = await swarm.network.join(KeySigner().node_id)
    async with asyncio.timeout(DEADLINE_S):
        for junk in (b"GET / HTTP/1.1\r\n", bytes(3_000), bytes(100_000)):
            pipe = await transport.open(b.id)
            await pipe.send(junk)
            with pytest.raises(ChannelClosed):
                await pipe.receive()
    await c.board.send(b.id, step(1))
    await hears(b, c, step(1))
    assert caplog.text.count("refused a caller") == 3


async def test_a_node_that_leaves_is_reported_once(swarm: Swarm) -> None:
    a, signer = await swarm.node(), KeySigner()
    transport = await swarm.network.join(signer.node_id)
    leaver = Node(transport, signer)
    async with leaver.board, asyncio.timeout(DEADLINE_S):
        await leaver.board.send(a.id, step(1))
        await a.heard.get()
    async with asyncio.timeout(DEADLINE_S):
        peer, error = await a.lost.get()
    assert (peer, type(error)) == (signer.node_id, ChannelClosed)
    assert a.lost.empty()
    assert a.board.peers == ()
    assert leaver.lost.empty()


async def test_a_message_that_fits_no_frame_is_refused_here(swarm: Swarm) -> None:
    a, b = await swarm.node(frame_bytes_max=2**16), await swarm.node()
    with pytest.raises(Unsupported):
        await a.board.send(b.id, step(1), [bytes(2**17)])
    await a.board.send(b.id, step(2))
    await hears(b, a, step(2))


async def test_a_silent_caller_costs_a_place_only_for_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("shardline.wire.switchboard.HANDSHAKE_S", 0.05)
    monkeypatch.setattr("shardline.wire.switchboard.HALF_OPEN_MAX", 2)
    network, signer = MemoryNetwork(), KeySigner()
    silent = network.endpoint(KeySigner().node_id)
    called = network.endpoint(signer.node_id)
    async with silent, called, Node(called, signer).board, asyncio.timeout(DEADLINE_S):
        pipes = [await silent.open(signer.node_id) for _ in range(3)]
        for pipe in pipes:
            with pytest.raises(ChannelClosed):
                await pipe.receive()
    assert caplog.text.count("too many handshakes") == 1
    assert caplog.text.count("no handshake in time") == 2


async def test_a_cut_link_is_reported_on_both_sides_and_heals() -> None:
    network, signers = MemoryNetwork(), (KeySigner(), KeySigner())
    async with AsyncExitStack() as stack:
        nodes: list[Node] = []
        for signer in signers:
            transport = await stack.enter_async_context(network.endpoint(signer.node_id))
            nodes.append(Node(transport, signer))
            await stack.enter_async_context(nodes[-1].board)
        a, b = nodes
        async with asyncio.timeout(DEADLINE_S):
            await a.board.ping(b.id)
            pinging = asyncio.create_task(a.board.ping(b.id))
            await asyncio.sleep(0)
            network.cut(a.id, b.id)
            assert [(await node.lost.get())[0] for node in nodes] == [b.id, a.id]
            with pytest.raises(NodeLost):
                await pinging
            with pytest.raises(NodeLost):
                await a.board.send(b.id, step(1))
            network.heal(a.id, b.id)
            await a.board.send(b.id, step(2))
            await hears(b, a, step(2))


async def test_a_muted_link_leaves_the_deadline_to_the_caller() -> None:
    network, signers = MemoryNetwork(), (KeySigner(), KeySigner())
    async with AsyncExitStack() as stack:
        nodes: list[Node] = []
        for signer in signers:
            transport = await stack.enter_async_context(network.endpoint(signer.node_id))
            nodes.append(Node(transport, signer))
            await stack.enter_async_context(nodes[-1].board)
        a, b = nodes
        await a.board.ping(b.id)
        network.mute(a.id, b.id)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await a.board.ping(b.id)


async def test_a_restarted_node_replaces_the_one_before(swarm: Swarm) -> None:
    """The old self is not noticed to be gone: it is a pipe that nobody reads."""
    a, evil = await swarm.node(), KeySigner()
    transport = await swarm.network.join(evil.node_id)
    async with asyncio.timeout(DEADLINE_S):
        for boot in (b"1" * 8, b"2" * 8):
            pipe = await transport.open(a.id)
            channel = await call(pipe, Identity(evil, MEMBER, boot), 2**20)
            await channel.send(Ping(1))
            await channel.receive()
        peer, error = await a.lost.get()
        assert (peer, "restarted" in str(error)) == (evil.node_id, True)
        await a.board.send(evil.node_id, step(1))
        message, _ = await channel.receive()
        assert message == step(1)
