"""A pipe with a finished handshake: messages go in and come out, sealed in between.

Small messages that are sent in one turn of the event loop, as a round's are, go in one frame when
the turn is over: they share what sealing, the pipe and the peer's waking cost, and none takes a
task switch. A large one goes through the channel's own writer task and a worker thread, and
everything sent after it queues behind, so that frames keep the order in which they were sealed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from shardline.core.errors import ForeignInvite, PeerFault, ProtocolMismatch
from shardline.wire.frames import (
    MESSAGES_MAX,
    SHARED_BYTES_MAX,
    Frame,
    decode_frame,
    encode_frame,
)
from shardline.wire.handshake import HANDSHAKE_BYTES_MAX, Initiator, Responder, refusal
from shardline.wire.sealing import TAG_BYTES
from shardline.wire.transport import ChannelClosed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardline.wire.handshake import Established, Identity
    from shardline.wire.messages import Message
    from shardline.wire.transport import Pipe

__all__ = ["Channel", "call", "welcome"]

LARGE_BYTES: Final = 2**20
"""Frames from here on are sealed and opened in a worker thread: a MiB takes about 0.2 ms."""


@dataclass(frozen=True, slots=True)
class _Queued:
    frame: Frame | bytes | bytearray
    done: asyncio.Future[None]


class Channel:
    """One sealed way to one proven peer."""

    def __init__(self, pipe: Pipe, established: Established, frame_bytes_max: int) -> None:
        self.peer = established.peer
        self.boot = established.boot
        self._pipe = pipe
        self._sealer = established.sealer
        self._opener = established.opener
        self._frame_bytes_max = frame_bytes_max
        self._held = bytearray()
        """Messages of this turn of the loop, which will leave in one frame."""
        self._held_count = 0
        self._held_done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue: deque[_Queued] = deque()
        """What the link could not take at once; nothing is held while there is any."""
        self._queued = asyncio.Event()
        self._came: deque[tuple[Message, list[memoryview]]] = deque()
        """The rest of the last frame."""

    async def send(
        self, message: Message, segments: Sequence[bytes | bytearray | memoryview] = ()
    ) -> None:
        """Hand this over to the link; segments must not change until it returns.

        Raises ChannelClosed, or Unsupported for what fits no frame. A cancelled send may still
        arrive.
        """
        frame = encode_frame(message, segments, frame_bytes_max=self._frame_bytes_max)
        if self._hold(frame):
            await asyncio.shield(self._held_done)
            return
        self._send_held()
        if self._queue or frame.size_bytes > LARGE_BYTES:
            await self._enqueue(frame)
            return
        sealed = self._sealer.seal(frame.parts, frame.size_bytes)
        if not self._pipe.send_now(sealed):
            await self._enqueue(sealed)

    def send_now(
        self, message: Message, segments: Sequence[bytes | bytearray | memoryview] = ()
    ) -> bool:
        """Hand over a small message at the end of this turn of the loop.

        A channel that ends by then may lose it. False if it is not small or the link is full, and
        `send` must be used.
        """
        return self._hold(encode_frame(message, segments, frame_bytes_max=self._frame_bytes_max))

    def _hold(self, frame: Frame) -> bool:
        """Let this leave with what else is sent in this turn of the loop, if it can."""
        if frame.size_bytes > SHARED_BYTES_MAX:
            return False
        if (
            self._held_count == MESSAGES_MAX
            or len(self._held) + frame.size_bytes > SHARED_BYTES_MAX
        ):
            self._send_held()
        if self._queue:
            return False
        if not self._held_count:
            asyncio.get_running_loop().call_soon(self._send_held)
        self._held_count += 1
        for part in frame.parts:
            self._held += part
        return True

    def _send_held(self) -> None:
        """Seal and send what is held, if it was not sent before."""
        if not self._held_count:
            return
        held, self._held, self._held_count = self._held, bytearray(), 0
        done, self._held_done = self._held_done, asyncio.get_running_loop().create_future()
        sealed = self._sealer.seal((memoryview(held),), len(held))
        taken = False
        with suppress(ChannelClosed):  # the writer will meet it, and end the channel
            taken = self._pipe.send_now(sealed)
        if taken:
            done.set_result(None)
        else:
            self._queue.append(_Queued(sealed, done))
            self._queued.set()

    async def _enqueue(self, frame: Frame | bytes | bytearray) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(_Queued(frame, done))
        self._queued.set()
        await done

    async def write(self) -> None:
        """Send what is queued, for as long as the channel lives; the channel's writer task."""
        while True:
            while self._queue:
                await self._write_first(self._queue[0])
                self._queue.popleft()
            self._queued.clear()
            await self._queued.wait()

    async def _write_first(self, queued: _Queued) -> None:
        frame = queued.frame
        if isinstance(frame, Frame):
            if queued.done.cancelled():  # given up before it was sealed: it never was
                return
            if frame.size_bytes > LARGE_BYTES:
                frame = await asyncio.to_thread(self._sealer.seal, frame.parts, frame.size_bytes)
            else:
                frame = self._sealer.seal(frame.parts, frame.size_bytes)
        await self._pipe.send(frame)
        if not queued.done.done():
            queued.done.set_result(None)

    async def receive(self) -> tuple[Message, list[memoryview]]:
        """The next message; segments are writable views of memory of their own.

        Raises ChannelClosed after the last one, PeerFault for anything that is none.
        """
        while not self._came:
            sealed = await self._pipe.receive()
            if len(sealed) > LARGE_BYTES:
                frame = await asyncio.to_thread(self._opener.open, sealed)
            else:
                frame = self._opener.open(sealed)
            self._came.extend(decode_frame(frame, frame_bytes_max=self._frame_bytes_max))
        return self._came.popleft()

    def close(self, error: Exception) -> None:
        """End the pipe; whoever still waits to send gets `error`."""
        self._send_held()
        self._came.clear()
        self._pipe.close()
        for queued in self._queue:
            if not queued.done.done():
                queued.done.set_exception(error)
                queued.done.exception()  # maybe nobody waits for it


async def call(pipe: Pipe, identity: Identity, frame_bytes_max: int) -> Channel:
    """Prove ourselves to `pipe.peer`, whom we called, and it to us.

    Raises ProtocolMismatch, ForeignInvite, PeerFault or ChannelClosed; the pipe stays open.
    """
    handshake = Initiator(identity, pipe.peer)
    await pipe.send(handshake.hello())
    await pipe.send(handshake.answer(await _receive(pipe)))
    established = handshake.welcomed(await _receive(pipe))
    pipe.widen(2 * (frame_bytes_max + TAG_BYTES))
    return Channel(pipe, established, frame_bytes_max)


async def welcome(pipe: Pipe, identity: Identity, frame_bytes_max: int) -> Channel:
    """Let a caller prove itself; like `call`, from the other side."""
    handshake = Responder(identity)
    try:
        reply = handshake.reply(await _receive(pipe))
    except (ProtocolMismatch, ForeignInvite):
        await pipe.send(refusal(identity))
        raise
    await pipe.send(reply)
    message, established = handshake.welcome(await _receive(pipe))
    if established.peer != pipe.peer:
        raise PeerFault("a caller that came in another node's name")
    pipe.widen(2 * (frame_bytes_max + TAG_BYTES))
    await pipe.send(message)
    return Channel(pipe, established, frame_bytes_max)


async def _receive(pipe: Pipe) -> bytes:
    message = await pipe.receive()
    if len(message) > HANDSHAKE_BYTES_MAX:
        raise PeerFault(f"a handshake of {len(message)} bytes")
    return message
