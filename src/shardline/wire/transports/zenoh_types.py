"""What zenoh's stubs leave untyped, as the small protocols that we use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import zenoh

__all__ = ["Closes", "Deletes", "KnowsLinks", "KnowsPeers", "Publishes", "Puts", "Undeclares"]


class Undeclares(Protocol):
    """A publisher, subscriber, token or listener."""

    def undeclare(self) -> None:
        """Take the declaration back; raises zenoh.ZError if the session closed first."""
        ...


class Publishes(Protocol):
    """A publisher."""

    def put(self, payload: bytes | bytearray) -> None:
        """Publish; blocks while the link is full."""
        ...


class Deletes(Protocol):
    """A session that publishes a deletion."""

    def delete(
        self, key_expr: str, *, congestion_control: zenoh.CongestionControl, express: bool
    ) -> None:
        """Publish a deletion of this key."""
        ...


class Puts(Protocol):
    """A session that publishes."""

    def put(
        self,
        key_expr: str,
        payload: bytes,
        *,
        congestion_control: zenoh.CongestionControl,
        express: bool,
    ) -> None:
        """Publish under this key; blocks while the link is full unless it may drop."""
        ...


class KnowsLinks(Protocol):
    """A session's info."""

    def links(self) -> list[zenoh.Link]:
        """One entry a link, whoever dialled."""
        ...


class KnowsPeers(Protocol):
    """A session's info."""

    def peers_zid(self) -> list[zenoh.ZenohId]:
        """Who is linked to us, but for routers and clients."""
        ...


class Closes(Protocol):
    """A session."""

    def close(self) -> None:
        """End it; blocks for a moment."""
        ...
