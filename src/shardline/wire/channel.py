"""A pipe with a finished handshake: messages go in and come out, sealed in between.

A small frame is sealed and handed to the pipe within the call of `send`, without a task switch.
A large one goes through the channel's own writer task and a worker thread, and everything sent
after it queues behind, so that frames keep the order in which they were sealed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from shardline.core.errors import ForeignInvite, PeerFault, ProtocolMismatch
from shardline.wire.frames import Frame, decode_frame, encode_frame
from shardline.wire.handshake import HANDSHAKE_BYTES_MAX, Initiator, Responder, refusal
from shardline.wire.sealing import TAG_BYTES

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
        self._queue: deque[_Queued] = deque()
        self._queued = asyncio.Event()

    async def send(
        self, message: Message, segments: Sequence[bytes | bytearray | memoryview] = ()
    ) -> None:
        """Hand this over to the link; segments must not change until it returns.

        Raises ChannelClosed, or Unsupported for what fits no frame. A cancelled send may still
        arrive.
        """
        frame = encode_frame(message, segments, frame_bytes_max=self._frame_bytes_max)
        if self._queue or frame.size_bytes > LARGE_BYTES:
            await self._enqueue(frame)
            return
        sealed = self._sealer.seal(frame.parts, frame.size_bytes)
        if not self._pipe.send_now(sealed):
            await self._enqueue(sealed)

    async def _enqueue(self, frame: Frame | bytes | bytearray) -> None:
        queued = _Queued(frame, asyncio.get_running_loop().create_future())
        self._queue.append(queued)
        self._queued.set()
        await queued.done

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
        sealed = await self._pipe.receive()
        if len(sealed) > LARGE_BYTES:
            frame = await asyncio.to_thread(self._opener.open, sealed)
        else:
            frame = self._opener.open(sealed)
        return decode_frame(frame, frame_bytes_max=self._frame_bytes_max)

    def close(self, error: Exception) -> None:
        """End the pipe; whoever still waits to send gets `error`."""
        self._pipe.close()
        for queued in self._queue:
            if not queued.done.done():
                queued.done.set_exception(error)


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
