"""A pipe over iroh: one QUIC connection with one stream, of frames behind their length.

QUIC itself notices a lost peer after 30 s, and the bindings give no knob. So each side sends an
empty datagram four times a lease; the peer's network stack acknowledges it on a thread of its own,
and a lease in which no packet at all comes ends the pipe. A busy event loop costs nobody its pipe.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from shardline.core.ids import NodeId, short
from shardline.wire.inbox import Inbox
from shardline.wire.transport import ChannelClosed
from shardline.wire.transports.iroh_engine import route_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shardline.wire.transports.iroh_engine import Route
    from shardline.wire.transports.iroh_types import (
        BiStream,
        Connection,
        Iroh,
        RecvStream,
        SendStream,
    )

__all__ = ["IrohPipe"]

LINGER_S: Final = 1.0
"""How long a pipe that was closed here may go on sending what it had taken before."""
WINDOW_BYTES: Final = 256 * 2**10
"""What waits here for the link, beside 10 MB in the engine; longer frames go alone."""
CHUNK_BYTES: Final = 64 * 2**10
LENGTH_BYTES: Final = 4
BEATS: Final = 4


class IrohPipe:
    """See Pipe. It lives as long as its `run`."""

    def __init__(
        self, iroh: Iroh, connection: Connection, peer: NodeId | None, lease_s: float
    ) -> None:
        self.claimed = peer
        self.inbox = Inbox(asyncio.get_running_loop())
        self._iroh = iroh
        self._connection = connection
        self._lease_s = lease_s
        self._queue: deque[bytes | bytearray] = deque()
        self._queued_bytes = 0
        self._queued = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        self._linger: asyncio.TimerHandle | None = None

    @property
    def peer(self) -> NodeId:
        """See Pipe."""
        assert self.claimed is not None  # a caller's pipe is handed out after its first frame
        return self.claimed

    @property
    def name(self) -> str:
        """The peer, for people."""
        return "a caller" if self.claimed is None else f"node {short(self.claimed)}"

    @property
    def route(self) -> Route:
        """Whether a relay carries this pipe now; it may become direct later, and fall back."""
        return route_of(self._connection.paths())

    def send_now(self, frame: bytes | bytearray) -> bool:
        """See Pipe."""
        self._check_up()
        if self._queued_bytes + len(frame) > WINDOW_BYTES:
            return False
        self._enqueue(frame)
        return True

    async def send(self, frame: bytes | bytearray) -> None:
        """See Pipe."""
        if self.send_now(frame):
            return
        await self._idle.wait()
        self._check_up()
        self._enqueue(frame)
        await self._idle.wait()
        self._check_up()

    def _check_up(self) -> None:
        if self.inbox.ended is not None:
            raise ChannelClosed(*self.inbox.ended.args)

    def _enqueue(self, frame: bytes | bytearray) -> None:
        self._queue.append(frame)
        self._queued_bytes += len(frame)
        self._idle.clear()
        self._queued.set()

    async def receive(self) -> bytes:
        """See Pipe."""
        return await self.inbox.take()

    def widen(self, bytes_max: int) -> None:
        """See Pipe."""
        self.inbox.widen(bytes_max)

    def close(self) -> None:
        """See Pipe."""
        if self._closing or self.inbox.ended is not None:
            return
        self._closing = True
        self.inbox.end(ChannelClosed(f"the pipe to {self.name} was closed here"))
        self._queued.set()
        loop = asyncio.get_running_loop()
        self._linger = loop.call_later(LINGER_S, self._connection.close, 0, b"")

    async def run(self, start: Callable[[], Awaitable[BiStream]]) -> None:
        """Move frames until the pipe is over, for whatever reason."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._beat())
                group.create_task(self._drop_datagrams())
                group.create_task(self._refuse_second(self._connection.accept_uni))
                stream = await start()
                group.create_task(self._refuse_second(self._connection.accept_bi))
                group.create_task(self._read(stream.recv()))
                group.create_task(self._write(stream.send()))
        except* ChannelClosed as over:
            self.inbox.end(ChannelClosed(*over.exceptions[0].args))
        except* self._iroh.IrohError:  # its text names lines of Rust
            self.inbox.end(ChannelClosed(f"the link to {self.name} is gone"))
        finally:
            self.inbox.end(ChannelClosed("this node is leaving"))
            self._connection.close(0, b"")
            self._idle.set()
            if self._linger is not None:
                self._linger.cancel()

    async def _read(self, stream: RecvStream) -> None:
        unread = bytearray()
        while chunk := await stream.read(CHUNK_BYTES):
            unread += chunk
            start = 0
            while len(unread) >= start + LENGTH_BYTES:
                size = int.from_bytes(unread[start : start + LENGTH_BYTES])
                if size == 0 or not self.inbox.room_for(size):
                    self.inbox.overfill()
                    raise ChannelClosed(f"{self.name} sent more than may wait here")
                stop = start + LENGTH_BYTES + size
                if len(unread) < stop:
                    break
                with memoryview(unread)[start + LENGTH_BYTES : stop] as frame:
                    self.inbox.offer(bytes(frame))
                start = stop
            del unread[:start]
        raise ChannelClosed(f"{self.name} closed the pipe")

    async def _write(self, stream: SendStream) -> None:
        while True:
            while self._queue:
                await self._write_frame(stream, self._queue[0])
                self._queued_bytes -= len(self._queue.popleft())
            self._idle.set()
            if self._closing:
                await stream.finish()
                await stream.stopped()
                raise ChannelClosed(f"the pipe to {self.name} was closed here")
            self._queued.clear()
            await self._queued.wait()

    @staticmethod
    async def _write_frame(stream: SendStream, frame: bytes | bytearray) -> None:
        first = CHUNK_BYTES - LENGTH_BYTES
        with memoryview(frame) as view:
            length = len(frame).to_bytes(LENGTH_BYTES)
            await stream.write_all(b"".join((length, view[:first])))
            for start in range(first, len(frame), CHUNK_BYTES):
                await stream.write_all(bytes(view[start : start + CHUNK_BYTES]))

    async def _beat(self) -> None:
        heard, silent = -1, 0
        while silent < BEATS:
            with suppress(self._iroh.IrohError):  # the other tasks say what is wrong
                self._connection.send_datagram(b"")
            await asyncio.sleep(self._lease_s / BEATS)
            now = self._connection.stats().udp_rx_datagrams
            silent = 0 if now != heard else silent + 1  # in beats: our own loop may stand still
            heard = now
        raise ChannelClosed(f"{self.name} went silent")

    async def _drop_datagrams(self) -> None:
        while True:
            await self._connection.read_datagram()

    async def _refuse_second(self, accept: Callable[[], Awaitable[object]]) -> None:
        """Streams that nobody reads would fill the engine's buffers."""
        await accept()
        raise ChannelClosed(f"{self.name} opened a second stream")
