"""What we use of iroh's generated bindings, as small protocols: it is an extra, and loaded late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Accepting",
    "BiStream",
    "Builder",
    "Connection",
    "Endpoint",
    "EndpointAddr",
    "Incoming",
    "Iroh",
    "Path",
    "RecvStream",
    "RelayMap",
    "RelayMode",
    "SendStream",
    "Stats",
]


class SendStream(Protocol):
    """The half of a stream that we write."""

    async def write_all(self, buf: bytes) -> None:
        """Return once the link's own buffer (10 MB) has all of it."""
        ...

    async def finish(self) -> None:
        """Say that no more will come."""
        ...

    async def stopped(self) -> int | None:
        """Wait until the peer has all, or wants no more."""
        ...


class RecvStream(Protocol):
    """The half of a stream that we read."""

    async def read(self, size_limit: int) -> bytes:
        """What has come, up to so much; nothing at the end."""
        ...


class BiStream(Protocol):
    """Both halves."""

    def send(self) -> SendStream:
        """Ours to write."""
        ...

    def recv(self) -> RecvStream:
        """Ours to read."""
        ...


class Path(Protocol):
    """One network path of a connection."""

    is_selected: bool
    is_relay: bool


class Stats(Protocol):
    """A connection's counters."""

    udp_rx_datagrams: int


class Connection(Protocol):
    """One QUIC connection."""

    async def open_bi(self) -> BiStream:
        """A stream of ours; the peer sees it with its first byte."""
        ...

    async def accept_bi(self) -> BiStream:
        """The next stream that the peer opens."""
        ...

    async def accept_uni(self) -> RecvStream:
        """The next one-way stream that the peer opens."""
        ...

    async def read_datagram(self) -> bytes:
        """The next datagram."""
        ...

    def send_datagram(self, data: bytes) -> None:
        """Send a datagram, or drop it."""
        ...

    def close(self, error_code: int, reason: bytes) -> None:
        """End it at once; what is on the way is lost."""
        ...

    def paths(self) -> Sequence[Path]:
        """The open network paths."""
        ...

    def stats(self) -> Stats:
        """The counters now."""
        ...


class Accepting(Protocol):
    """A caller in its TLS handshake."""

    async def connect(self) -> Connection:
        """Finish the handshake."""
        ...


class Incoming(Protocol):
    """A caller before its TLS handshake."""

    async def accept(self) -> Accepting:
        """Begin the handshake."""
        ...

    async def refuse(self) -> None:
        """Send it away."""
        ...


class EndpointAddr(Protocol):
    """Where an endpoint can be reached."""

    def direct_addresses(self) -> list[str]:
        """Each as HOST:PORT."""
        ...

    def relay_url(self) -> str | None:
        """Its home relay."""
        ...


class Endpoint(Protocol):
    """Two UDP sockets, and a key."""

    def id(self) -> object:
        """The public half of the key; its `str` is 64 hexadecimal digits."""
        ...

    def addr(self) -> EndpointAddr:
        """Where it can be reached now."""
        ...

    async def accept_next(self) -> Incoming | None:
        """The next caller; None once the endpoint is closed."""
        ...

    async def connect(self, addr: EndpointAddr, alpn: bytes) -> Connection:
        """Connect, with TLS."""
        ...

    async def online(self) -> None:
        """Wait until a relay is connected."""
        ...

    async def close(self) -> None:
        """Close all; takes up to 3 s if a peer does not answer."""
        ...


class RelayMap(Protocol):
    """The relays that an endpoint may use."""

    def contains(self, url: str) -> bool:
        """Whether this is one of them."""
        ...


class RelayMode(Protocol):
    """Which relays an endpoint uses."""

    def relay_map(self) -> RelayMap:
        """The relays."""
        ...


class Builder(Protocol):
    """What an endpoint will be."""

    def apply_minimal(self) -> None:
        """Contact nothing that is not asked for."""
        ...

    def alpns(self, alpns: list[bytes]) -> None:
        """The protocols that callers may speak."""
        ...

    def bind_addr(self, addr: str) -> None:
        """Listen here; once for each address family."""
        ...

    def relay_mode(self, mode: RelayMode) -> None:
        """Use these relays."""
        ...

    async def bind(self) -> Endpoint:
        """Open it."""
        ...


class _RelayModes(Protocol):
    def disabled(self) -> RelayMode: ...
    def default_mode(self) -> RelayMode: ...
    def custom_from_urls(self, urls: list[str]) -> RelayMode: ...


class _EndpointIds(Protocol):
    def from_string(self, s: str) -> object: ...


class _MakesAddr(Protocol):
    def __call__(
        self, endpoint_id: object, relay_url: str | None, addresses: list[str], /
    ) -> EndpointAddr: ...


class _MakesBuilder(Protocol):
    def __call__(self) -> Builder: ...


class Iroh(Protocol):
    """The module."""

    IrohError: type[Exception]
    EndpointAddr: _MakesAddr
    EndpointBuilder: _MakesBuilder
    EndpointId: _EndpointIds
    RelayMode: _RelayModes
