"""The in-memory twin of every transport: a network within one event loop, whose links break."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from shardline.core.errors import NodeLost
from shardline.core.ids import NodeId, short
from shardline.wire.inbox import Inbox
from shardline.wire.transport import ChannelClosed

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["MemoryNetwork", "MemoryTransport"]

ACCEPT_MAX: Final = 64


class MemoryNetwork:
    """Joins endpoints; `cut` and `mute` break the link between two of them until `heal`."""

    def __init__(self) -> None:
        self._endpoints: dict[NodeId, MemoryTransport] = {}
        self._pipes: set[_MemoryPipe] = set()
        self._cut: set[frozenset[NodeId]] = set()
        self._mute: set[frozenset[NodeId]] = set()

    def endpoint(self, me: NodeId) -> MemoryTransport:
        """A node's transport; it is reachable while its context is entered."""
        return MemoryTransport(self, me)

    def cut(self, a: NodeId, b: NodeId) -> None:
        """Break all pipes between these two, and let no new one be opened."""
        self._cut.add(frozenset((a, b)))
        for pipe in [pipe for pipe in self._pipes if {pipe.me, pipe.peer} == {a, b}]:
            pipe.lose(ChannelClosed(f"the link to {short(pipe.peer)} was cut"))

    def mute(self, a: NodeId, b: NodeId) -> None:
        """Let every frame between these two vanish, and tell nobody."""
        self._mute.add(frozenset((a, b)))

    def heal(self, a: NodeId, b: NodeId) -> None:
        """Undo `cut` and `mute`; pipes that were cut stay closed."""
        self._cut.discard(frozenset((a, b)))
        self._mute.discard(frozenset((a, b)))

    def is_mute(self, a: NodeId, b: NodeId) -> bool:
        """Whether frames between these two vanish."""
        return frozenset((a, b)) in self._mute

    def attach(self, transport: MemoryTransport) -> None:
        """Make this endpoint reachable."""
        self._endpoints[transport.me] = transport

    def detach(self, transport: MemoryTransport) -> None:
        """Take it away, and end its pipes."""
        if self._endpoints.get(transport.me) is transport:
            del self._endpoints[transport.me]
        for pipe in [pipe for pipe in self._pipes if pipe.owner is transport]:
            pipe.close()

    def connect(self, caller: MemoryTransport, peer: NodeId) -> _MemoryPipe:
        """Both ends of a fresh pipe, the far one in the peer's queue; raises NodeLost."""
        target = self._endpoints.get(peer)
        if target is None or frozenset((caller.me, peer)) in self._cut:
            raise NodeLost(f"node {short(peer)} cannot be reached")
        near, far = _MemoryPipe(self, caller, peer), _MemoryPipe(self, target, caller.me)
        near.join(far)
        self._pipes |= {near, far}
        target.arrive(far)
        return near

    def forget(self, pipe: _MemoryPipe) -> None:
        """This end is closed."""
        self._pipes.discard(pipe)


class _MemoryPipe:
    def __init__(self, network: MemoryNetwork, owner: MemoryTransport, peer: NodeId) -> None:
        self.owner = owner
        self.peer = peer
        self.inbox = Inbox(asyncio.get_running_loop(), self.close)
        self._network = network
        self._far: _MemoryPipe | None = None

    @property
    def me(self) -> NodeId:
        return self.owner.me

    def join(self, far: _MemoryPipe) -> None:
        self._far, far._far = far, self

    def send_now(self, frame: bytes | bytearray) -> bool:
        if self.inbox.ended is not None:
            raise ChannelClosed(*self.inbox.ended.args)
        if self._far is not None and not self._network.is_mute(self.me, self.peer):
            inbox = self._far.inbox
            if inbox.room_for(len(frame)):
                inbox.offer(bytes(frame))
            else:
                inbox.overfill()
        return True

    async def send(self, frame: bytes | bytearray) -> None:
        self.send_now(frame)

    async def receive(self) -> bytes:
        return await self.inbox.take()

    def widen(self, bytes_max: int) -> None:
        self.inbox.widen(bytes_max)

    def lose(self, error: ChannelClosed) -> None:
        self.inbox.end(error)
        self._network.forget(self)

    def close(self) -> None:
        self.lose(ChannelClosed(f"the pipe to {short(self.peer)} was closed here"))
        far, self._far = self._far, None
        if far is not None and not self._network.is_mute(self.me, self.peer):
            far.lose(ChannelClosed(f"node {short(self.me)} closed the pipe"))


class MemoryTransport:
    """One endpoint of a MemoryNetwork."""

    def __init__(self, network: MemoryNetwork, me: NodeId) -> None:
        self._network = network
        self._me = me
        self._arrived: deque[_MemoryPipe] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    @property
    def me(self) -> NodeId:
        """The node whose place this is."""
        return self._me

    async def open(self, peer: NodeId) -> _MemoryPipe:
        """See Transport."""
        if self._closed:
            raise ChannelClosed("this transport is closed")
        return self._network.connect(self, peer)

    async def accept(self) -> _MemoryPipe:
        """See Transport."""
        while not self._arrived:
            if self._closed:
                raise ChannelClosed("this transport is closed")
            self._changed.clear()
            await self._changed.wait()
        return self._arrived.popleft()

    def arrive(self, pipe: _MemoryPipe) -> None:
        """A peer has opened this pipe."""
        if len(self._arrived) >= ACCEPT_MAX:
            pipe.close()
            return
        self._arrived.append(pipe)
        self._changed.set()

    def close(self) -> None:
        """See Transport."""
        self._closed = True
        self._changed.set()
        self._arrived.clear()
        self._network.detach(self)

    async def __aenter__(self) -> Self:
        self._network.attach(self)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
