"""A channel over a pipe that counts its frames, and may be full or broken."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

import pytest

from shardline.core.ids import NodeId, SessionId
from shardline.wire import ChannelClosed, Close, Message, Step
from shardline.wire.channel import LARGE_BYTES, Channel
from shardline.wire.frames import FRAME_BYTES_MAX, MESSAGES_MAX, SHARED_BYTES_MAX
from shardline.wire.handshake import Established
from shardline.wire.sealing import KEY_BYTES, Opener, Sealer

pytestmark = pytest.mark.anyio

PEER = NodeId("ab" * 32)
SESSION = SessionId("cd" * 16)
DEADLINE_S = 10


def step(number: int) -> Step:
    return Step(SESSION, 0, number, PEER, [])


@dataclass
class Pipe:
    """What is sent comes back."""

    peer: NodeId = PEER
    sent: list[bytes] = field(default_factory=list[bytes])
    full: bool = False
    broken: bool = False
    closed: bool = False
    free: asyncio.Event = field(default_factory=asyncio.Event)

    def send_now(self, frame: bytes | bytearray) -> bool:
        if self.broken:
            raise ChannelClosed("broken")
        if not self.full:
            self.sent.append(bytes(frame))
        return not self.full

    async def send(self, frame: bytes | bytearray) -> None:
        if self.full:
            await self.free.wait()
            self.full = False
        self.send_now(frame)

    async def receive(self) -> bytes:
        if not self.sent:
            raise ChannelClosed("no more")
        return self.sent.pop(0)

    def widen(self, bytes_max: int) -> None:
        del bytes_max

    def close(self) -> None:
        self.closed = True


@pytest.fixture
async def pipe() -> Pipe:
    return Pipe()


@pytest.fixture
async def channel(pipe: Pipe) -> Channel:
    key = bytes(KEY_BYTES)
    return Channel(pipe, Established(PEER, b"boot", Sealer(key), Opener(key)), FRAME_BYTES_MAX)


async def come(channel: Channel) -> list[tuple[Message, list[memoryview]]]:
    found: list[tuple[Message, list[memoryview]]] = []
    with contextlib.suppress(ChannelClosed):
        while True:
            found.append(await channel.receive())
    return found


async def test_what_is_sent_in_one_turn_is_one_frame(channel: Channel, pipe: Pipe) -> None:
    for number in range(16):
        assert channel.send_now(step(number), [bytes([number]) * number])
    assert pipe.sent == []
    await asyncio.sleep(0)
    assert len(pipe.sent) == 1
    found = await come(channel)
    assert found == [(step(number), [bytes([number]) * number]) for number in range(16)]


async def test_a_segment_may_change_once_its_message_is_held(channel: Channel) -> None:
    segment = bytearray(b"early")
    assert channel.send_now(step(1), [segment])
    segment[:] = b"later"
    await asyncio.sleep(0)
    assert await come(channel) == [(step(1), [b"early"])]


async def test_a_frame_has_so_many_messages_and_bytes(channel: Channel, pipe: Pipe) -> None:
    for number in range(MESSAGES_MAX + 1):
        assert channel.send_now(step(number))
    assert len(pipe.sent) == 1
    for number in range(3):
        assert channel.send_now(step(number), [bytes(SHARED_BYTES_MAX // 2)])
    await asyncio.sleep(0)
    assert max(map(len, pipe.sent)) <= SHARED_BYTES_MAX + 16
    assert len(await come(channel)) == MESSAGES_MAX + 4


async def test_small_and_large_messages_keep_their_order(channel: Channel) -> None:
    sizes = [5, SHARED_BYTES_MAX, 7, LARGE_BYTES, 9]
    writing = asyncio.create_task(channel.write())
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        for number, size in enumerate(sizes):
            group.create_task(channel.send(step(number), [bytes(size)]))
    await asyncio.sleep(0)
    assert [message for message, _ in await come(channel)] == [step(n) for n in range(len(sizes))]
    writing.cancel()


async def test_a_full_link_makes_later_senders_wait(channel: Channel, pipe: Pipe) -> None:
    pipe.full = True
    writing = asyncio.create_task(channel.write())
    assert channel.send_now(step(1))
    await asyncio.sleep(0)
    assert not channel.send_now(step(2))
    waiting = asyncio.create_task(channel.send(step(2)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    pipe.free.set()
    async with asyncio.timeout(DEADLINE_S):
        await waiting
    assert [message for message, _ in await come(channel)] == [step(1), step(2)]
    writing.cancel()


async def test_a_break_after_a_message_was_held_ends_the_channel(
    channel: Channel, pipe: Pipe
) -> None:
    writing = asyncio.create_task(channel.write())
    assert channel.send_now(step(1))
    pipe.broken = True
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(ChannelClosed, match="broken"):
            await writing


async def test_what_is_held_goes_before_the_end(channel: Channel, pipe: Pipe) -> None:
    assert channel.send_now(Close(SESSION))
    channel.close(ChannelClosed("over"))
    assert pipe.closed
    assert await come(channel) == [(Close(SESSION), [])]


async def test_nothing_more_of_a_frame_comes_once_its_channel_is_closed(channel: Channel) -> None:
    assert channel.send_now(step(1))
    assert channel.send_now(step(2))
    await asyncio.sleep(0)
    await channel.receive()
    channel.close(ChannelClosed("a peer's fault"))
    assert await come(channel) == []


async def test_who_sends_knows_that_a_full_link_took_it(channel: Channel, pipe: Pipe) -> None:
    pipe.full = True
    writing = asyncio.create_task(channel.write())
    telling, given_up = (asyncio.create_task(channel.send(step(n))) for n in range(2))
    for _ in range(10):
        await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.sleep(0)
    assert not telling.done()
    pipe.free.set()
    async with asyncio.timeout(DEADLINE_S):
        await telling
    assert [message for message, _ in await come(channel)] == [step(0), step(1)]
    writing.cancel()


async def test_who_sends_into_a_channel_that_ends_is_told(channel: Channel, pipe: Pipe) -> None:
    pipe.full = True
    telling = asyncio.create_task(channel.send(step(1)))
    await asyncio.sleep(0)
    channel.close(ChannelClosed("over"))
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(ChannelClosed, match="over"):
            await telling
