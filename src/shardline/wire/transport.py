"""The Transport port: pipes of whole frames between nodes that are named by their keys.

It promises: frames of a pipe arrive whole, in the order in which they were sent, at most once,
and none is missing as long as the pipe is up; an end of the pipe, a lost link and a lost node are
noticed at both ends within the engine's lease; what a peer can make a node hold is bounded.
It does not promise: who is at the other end (`Pipe.peer` is what the caller says), secrecy,
arrival of what was sent shortly before a pipe broke, or one pipe per peer. The Switchboard does
the proving and sealing on top.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from shardline.core.errors import NodeLost

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from shardline.core.ids import NodeId

__all__ = ["STRANGER_BYTES_MAX", "ChannelClosed", "Pipe", "Transport"]

STRANGER_BYTES_MAX: Final = 4_096
"""What may wait unread in a fresh pipe: a handshake's messages, until `widen` is called."""


class ChannelClosed(NodeLost):
    """The pipe has ended: closed by either side, or its link or peer went away."""


class Pipe(Protocol):
    """One way to a peer and back, for one reader and one sender at a time."""

    @property
    def peer(self) -> NodeId:
        """Who the other side says it is; nothing is proven here."""
        ...

    def send_now(self, frame: bytes | bytearray) -> bool:
        """Hand over a frame if that takes no wait; False if it would, and `send` must be used.

        Frames are not empty and are taken over: leave them unchanged. Raises ChannelClosed.
        """
        ...

    async def send(self, frame: bytes | bytearray) -> None:
        """Hand over a frame, waiting while the link is full.

        If it is cancelled, the frame may or may not go out: close the pipe. Raises ChannelClosed.
        """
        ...

    async def receive(self) -> bytes:
        """The next frame; raises ChannelClosed after the last one."""
        ...

    def widen(self, bytes_max: int) -> None:
        """Let this many bytes wait unread, now that the peer has shown who it is."""
        ...

    def close(self) -> None:
        """End the pipe; the peer's `receive` ends after the frames that were sent before."""
        ...


class Transport(Protocol):
    """A node's place in a network; a context that is reachable while it is entered."""

    @property
    def me(self) -> NodeId:
        """The node whose place this is."""
        ...

    async def open(self, peer: NodeId) -> Pipe:
        """A pipe to this node, waiting a few seconds for a node that is just starting.

        Raises NodeLost if it cannot be reached.
        """
        ...

    async def accept(self) -> Pipe:
        """The next pipe that a peer opens to us; raises ChannelClosed once we are closed.

        Only so many wait: callers beyond are not answered.
        """
        ...

    def close(self) -> None:
        """Stop accepting and end every pipe."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
