"""Pipes over zenoh's publish and subscribe.

A node subscribes to `<prefix>/to/<itself>/<caller>/<pipe>`. An empty sample (a mark) opens a pipe,
confirms it, and then says that the peer still reads; a deletion ends it, every other sample is a
frame. Whether the peer's subscriber can
be reached is what zenoh's matching status says: it turns false within milliseconds of a killed
process and within the lease of a frozen one, and then the pipe is over.

Zenoh calls back on its own threads. A frame is copied there once and wakes the loop once. Small
frames are published on the loop itself (about 15 us), because a thread costs more than that; large
ones, those of a link that took long, and those beyond what the peer has shown to read, from a
worker thread, because a full link blocks the call, for a lease if the peer is frozen.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from contextlib import ExitStack, suppress
from secrets import token_hex
from typing import TYPE_CHECKING, Final, cast

import zenoh

from shardline.core.errors import NodeLost
from shardline.core.ids import NodeId, short
from shardline.wire.inbox import Inbox
from shardline.wire.transport import ChannelClosed

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from shardline.wire.transports.zenoh_engine import ZenohEngine
    from shardline.wire.transports.zenoh_types import Deletes, Publishes, Puts, Undeclares

__all__ = ["ZenohTransport"]

OPEN_S: Final = 3.0
"""How long `open` waits for a peer that may be just starting."""
ACCEPT_MAX: Final = 64
"""Pipes that wait to be accepted, and knocks that wait for the loop; callers beyond are deaf."""
PIPES_MAX: Final = 4_096
INLINE_BYTES_MAX: Final = 64 * 2**10
"""Frames up to here are published on the event loop."""
SLOW_S: Final = 0.005
"""A publication that took longer shows a full link: the next frames go by the worker thread."""
INLINE_WINDOW_BYTES: Final = 256 * 2**10
"""Bytes published on the loop since the peer's last mark; the buffers of a link take as many."""
MARK_BYTES: Final = 128 * 2**10
"""A reader marks each time it has read as much."""
_HEX: Final = frozenset("0123456789abcdef")
_PEER_DIGITS: Final = 64
_NAME_DIGITS: Final = 32


class _ZenohPipe:
    def __init__(self, transport: ZenohTransport, peer: NodeId, name: str) -> None:
        self.peer = peer
        self.name = name
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self.inbox = Inbox(self._loop, self.close)
        self.reachable: asyncio.Future[None] = self._loop.create_future()
        self.confirmed: asyncio.Future[None] = self._loop.create_future()
        self._full = False
        self._unmarked_bytes = 0
        self._read_bytes = 0
        self._closed = False
        publisher = transport.session.declare_publisher(
            f"{transport.prefix}/to/{peer}/{transport.me}/{name}",
            congestion_control=zenoh.CongestionControl.BLOCK,
            reliability=zenoh.Reliability.RELIABLE,
            express=True,
        )
        listener = publisher.declare_matching_listener(self._on_matching)
        self._publisher = cast("Publishes", publisher)  # undeclared when the pipe is forgotten
        self._listener = cast("Undeclares", listener)

    def _on_matching(self, status: zenoh.MatchingStatus) -> None:
        with suppress(RuntimeError):  # the loop has closed
            self._loop.call_soon_threadsafe(self._matched, status.matching)

    def _matched(self, matching: bool) -> None:  # noqa: FBT001 - a callback's argument
        self._transport.look_soon()
        if not self.reachable.done():
            if matching:
                self.reachable.set_result(None)
        elif not matching:
            self.lose(ChannelClosed(f"node {short(self.peer)} went away"))

    def mark(self) -> None:
        """Publish the empty sample that opens or confirms."""
        self._put(b"")

    def on_mark(self) -> None:
        """The peer reads; called on one of zenoh's threads."""
        self._unmarked_bytes = 0

    def on_confirmed(self) -> None:
        """The peer's first mark came."""
        if not self.confirmed.done():
            self.confirmed.set_result(None)

    def send_now(self, frame: bytes | bytearray) -> bool:
        if self.inbox.ended is not None:
            raise ChannelClosed(*self.inbox.ended.args)
        size = len(frame)
        unmarked_bytes = self._unmarked_bytes + size
        if self._full or size > INLINE_BYTES_MAX or unmarked_bytes > INLINE_WINDOW_BYTES:
            return False
        self._unmarked_bytes = unmarked_bytes
        self._put(frame)
        return True

    async def send(self, frame: bytes | bytearray) -> None:
        if not self.send_now(frame):
            await asyncio.to_thread(self._put, frame)

    def _put(self, frame: bytes | bytearray) -> None:
        started = time.monotonic()
        try:
            self._publisher.put(frame)
        except zenoh.ZError as error:
            raise ChannelClosed(f"the link to {short(self.peer)} is gone: {error}") from None
        if len(frame) <= INLINE_BYTES_MAX:
            self._full = time.monotonic() - started > SLOW_S

    async def receive(self) -> bytes:
        frame = await self.inbox.take()
        self._read_bytes += len(frame)
        if self._read_bytes >= MARK_BYTES and not self._closed:
            self._read_bytes = 0
            self._transport.tell_read(self.peer, self.name)
        return frame

    def widen(self, bytes_max: int) -> None:
        self.inbox.widen(bytes_max)

    def lose(self, error: ChannelClosed) -> None:
        """The pipe is over and the peer knows or is gone."""
        if self._closed:
            return
        self._closed = True
        self.inbox.end(error)
        self._transport.forget(self)
        for waiting in (self.reachable, self.confirmed):
            waiting.cancel()
        with suppress(zenoh.ZError):  # the session closed first
            self._listener.undeclare()

    def close(self) -> None:
        if not self._closed:
            self._transport.tell_end(self.peer, self.name)
            self.lose(ChannelClosed(f"the pipe to {short(self.peer)} was closed here"))


class ZenohTransport:
    """A node's place in a swarm: `prefix` keeps swarms and uses of one session apart."""

    def __init__(
        self, engine: ZenohEngine, prefix: str, me: NodeId, *, open_s: float = OPEN_S
    ) -> None:
        self.session = engine.session
        self.look_soon = engine.look_soon
        self.prefix = prefix
        self._me = me
        self._open_s = open_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._subscriber: Undeclares | None = None
        self._pipes: dict[tuple[str, str], _ZenohPipe] = {}
        self._arrived: deque[_ZenohPipe] = deque()
        self._changed = asyncio.Event()
        self._lock = threading.Lock()
        self._pending = 0  # calls from zenoh's threads that the loop has not made yet
        self._closed = False

    @property
    def me(self) -> NodeId:
        """The node whose place this is."""
        return self._me

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        key = f"{self.prefix}/to/{self._me}/*/*"
        subscriber = self.session.declare_subscriber(key, self._on_sample)
        self._subscriber = cast("Undeclares", subscriber)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def open(self, peer: NodeId) -> _ZenohPipe:
        """See Transport."""
        if self._closed:
            raise ChannelClosed("this transport is closed")
        pipe = self._add(peer, token_hex(_NAME_DIGITS // 2))
        with ExitStack() as undo:
            undo.callback(pipe.close)
            try:
                async with asyncio.timeout(self._open_s):
                    await asyncio.wait((pipe.reachable,))
                    self._check_up(pipe)
                    pipe.mark()
                    await asyncio.wait((pipe.confirmed,))
                    self._check_up(pipe)
            except TimeoutError:
                raise NodeLost(f"node {short(peer)} cannot be reached") from None
            undo.pop_all()
        return pipe

    def _add(self, peer: NodeId, name: str) -> _ZenohPipe:
        pipe = _ZenohPipe(self, peer, name)
        self._pipes[peer, name] = pipe
        return pipe

    async def accept(self) -> _ZenohPipe:
        """See Transport."""
        while True:
            if self._closed:
                raise ChannelClosed("this transport is closed")
            while self._arrived:
                pipe = self._arrived.popleft()
                if pipe.inbox.ended is None:
                    return pipe
            self._changed.clear()
            await self._changed.wait()

    def close(self) -> None:
        """See Transport."""
        if self._closed:
            return
        self._closed = True
        if self._subscriber is not None:
            with suppress(zenoh.ZError):  # the session closed first
                self._subscriber.undeclare()
        for pipe in list(self._pipes.values()):
            pipe.close()
        self._changed.set()

    def forget(self, pipe: _ZenohPipe) -> None:
        """This pipe is over."""
        self._pipes.pop((pipe.peer, pipe.name), None)

    def tell_read(self, peer: NodeId, name: str) -> None:
        """Mark that we read; the next mark does if this one is dropped by a full link."""
        key = f"{self.prefix}/to/{peer}/{self._me}/{name}"
        with suppress(zenoh.ZError):  # the session closed first
            drop = zenoh.CongestionControl.DROP
            session = cast("Puts", self.session)
            session.put(key, b"", congestion_control=drop, express=True)

    def tell_end(self, peer: NodeId, name: str) -> None:
        """Tell the peer that a pipe is over; dropped rather than waited for on a full link."""
        key = f"{self.prefix}/to/{peer}/{self._me}/{name}"
        with suppress(zenoh.ZError):  # the session closed first
            drop = zenoh.CongestionControl.DROP
            session = cast("Deletes", self.session)
            session.delete(key, congestion_control=drop, express=True)

    @staticmethod
    def _check_up(pipe: _ZenohPipe) -> None:
        if pipe.inbox.ended is not None:
            raise ChannelClosed(*pipe.inbox.ended.args)

    def _on_sample(self, sample: zenoh.Sample) -> None:
        """A sample came; on one of zenoh's threads."""
        _, caller, name = str(sample.key_expr).rsplit("/", 2)
        pipe = self._pipes.get((caller, name))
        if sample.kind == zenoh.SampleKind.DELETE:
            if pipe is not None:
                pipe.inbox.end(ChannelClosed(f"node {short(pipe.peer)} closed the pipe"))
                self._call_soon(pipe.lose, ChannelClosed(f"node {short(pipe.peer)} closed it"))
            return
        payload = sample.payload
        size = len(payload)
        if pipe is None:
            self._call_soon(self._on_stranger, caller, name, size)
        elif size == 0:
            pipe.on_mark()
            if not pipe.confirmed.done():
                self._call_soon(pipe.on_confirmed)
        elif pipe.inbox.room_for(size):
            pipe.inbox.offer(payload.to_bytes())
        else:
            pipe.inbox.overfill()

    def _call_soon(self, call: Callable[..., None], *args: object) -> None:
        """Call this on the loop, unless too many such calls wait already."""
        with self._lock:
            if self._pending >= ACCEPT_MAX or self._loop is None:
                return
            self._pending += 1
        with suppress(RuntimeError):  # the loop has closed
            self._loop.call_soon_threadsafe(self._called, call, args)

    def _called(self, call: Callable[..., None], args: tuple[object, ...]) -> None:
        with self._lock:
            self._pending -= 1
        call(*args)

    def _on_stranger(self, caller: str, name: str, size_bytes: int) -> None:
        """A sample of a pipe that we do not have: a knock, or it was closed on our side."""
        is_ours = _HEX.issuperset(caller + name)
        is_ours = is_ours and (len(caller), len(name)) == (_PEER_DIGITS, _NAME_DIGITS)
        if self._closed or not is_ours or (caller, name) in self._pipes:
            return
        peer = NodeId(caller)
        if size_bytes or len(self._arrived) >= ACCEPT_MAX or len(self._pipes) >= PIPES_MAX:
            self.tell_end(peer, name)
            return
        pipe = self._add(peer, name)
        pipe.reachable.add_done_callback(lambda reached: self._admit(pipe, reached))
        asyncio.get_running_loop().call_later(self._open_s, self._expire, pipe)

    def _admit(self, pipe: _ZenohPipe, reached: asyncio.Future[None]) -> None:
        """We can answer the caller: let it in."""
        if reached.cancelled() or pipe.inbox.ended is not None:
            return
        try:
            pipe.mark()
        except ChannelClosed:
            pipe.close()
            return
        self._arrived.append(pipe)
        self._changed.set()

    @staticmethod
    def _expire(pipe: _ZenohPipe) -> None:
        """A caller that we cannot answer knocked, so nobody is there."""
        if not pipe.reachable.done():
            pipe.close()
