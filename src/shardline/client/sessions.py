"""All sessions of one caller, and whose message is whose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardline.wire import Failed, Opened, Result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardline.client.session import RemoteSession
    from shardline.core.errors import ShardlineError
    from shardline.core.ids import NodeId, SessionId
    from shardline.core.segments import Segment
    from shardline.wire import Message

__all__ = ["Sessions"]


class Sessions:
    """All open sessions of one caller, and whose message is whose."""

    def __init__(self) -> None:
        self._open: dict[SessionId, RemoteSession] = {}

    def add(self, session: RemoteSession) -> None:
        """From now on the session hears its messages."""
        self._open[session.id] = session

    def remove(self, session: RemoteSession) -> None:
        """The session hears nothing more."""
        self._open.pop(session.id, None)

    def on_message(self, peer: NodeId, message: Message, segments: Sequence[Segment]) -> None:
        """Hand a message to its session; one for no session is late, and passed over."""
        if isinstance(message, Opened | Result | Failed):
            session = self._open.get(message.session)
            if session is not None:
                session.on_message(peer, message, segments)

    def on_gone(self, node: NodeId, cause: ShardlineError) -> None:
        """Tell every session that a node is gone."""
        for session in list(self._open.values()):
            session.on_gone(node, cause)

    def on_joined(self, node: NodeId) -> None:
        """Tell every session that a node is here, or back."""
        for session in list(self._open.values()):
            session.on_joined(node)
