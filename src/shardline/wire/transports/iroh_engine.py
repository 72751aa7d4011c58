"""Loading iroh, opening an endpoint as a swarm wants it, and the addresses that peers publish.

The generated bindings of iroh 1.2 hand bytes over one by one in a Python loop, at 2 MB/s. Upstream
copies them at once since uniffi 0.32 (mozilla/uniffi-rs 2824); until a wheel has that, `load_iroh`
sets the same at run time, and only if the loop is still there (decision 0007).
"""

from __future__ import annotations

import ctypes
import importlib
import ipaddress
import re
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from shardline.core.errors import AddressTaken, BadInput
from shardline.core.ids import PROTOCOL
from shardline.wire.transports.zenoh_engine import split_address

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardline.wire.transports.iroh_types import (
        Endpoint,
        EndpointAddr,
        Iroh,
        Path,
        RelayMode,
    )

__all__ = [
    "ALPN",
    "PUBLIC_RELAYS",
    "IrohAddress",
    "IrohSettings",
    "Route",
    "bind",
    "endpoint_addr",
    "load_iroh",
    "parse_address",
    "published",
    "relay_mode",
    "route_of",
]

ALPN: Final = b"shardline/%d" % PROTOCOL
PUBLIC_RELAYS: Final = ("n0",)
"""The relays of iroh's makers: rate-limited and meant for trials."""
ADDRESS_CHARS_MAX: Final = 1_024
PLACES_MAX: Final = 16
_SCHEME: Final = "iroh"
_ENDPOINT_ID: Final = re.compile(r"[0-9a-f]{64}")

Route = Literal["direct", "relayed"]


@dataclass(frozen=True, slots=True)
class IrohSettings:
    """How one process takes part."""

    listen: str = "0.0.0.0:0"
    """IP:PORT for UDP (port 0: any free one; IPv6 in brackets). The address family that is not
    named listens everywhere too if this is everywhere, else on loopback only."""
    relays: tuple[str, ...] = ()
    """Urls of iroh relays, the same for all nodes of a swarm: they introduce nodes behind NATs to
    each other, and carry what finds no direct way. None: direct addresses only."""
    lease_s: float = 3.0
    """A silent link counts as lost after this, killed and frozen processes alike."""


@dataclass(frozen=True, slots=True)
class IrohAddress:
    """Where an endpoint can be reached: `iroh/<endpoint id>/<ip:port or relay url>,...`."""

    endpoint_id: str
    direct: tuple[str, ...]
    relay: str | None = None

    def __str__(self) -> str:
        places = self.direct[: PLACES_MAX - 1] + ((self.relay,) if self.relay else ())
        return f"{_SCHEME}/{self.endpoint_id}/{','.join(places)}"


def parse_address(text: str) -> IrohAddress | None:
    """What a peer published; None for another engine's address and for what is none."""
    scheme, _, rest = text[: ADDRESS_CHARS_MAX + 1].partition("/")
    endpoint_id, _, listed = rest.partition("/")
    places = listed.split(",")
    if (
        scheme != _SCHEME
        or len(text) > ADDRESS_CHARS_MAX
        or not _ENDPOINT_ID.fullmatch(endpoint_id)
        or len(places) > PLACES_MAX
    ):
        return None
    relays = [place for place in places if place.startswith("https://")]
    direct = tuple(place for place in places if place not in relays)
    if len(relays) > 1 or not all(map(_is_socket_address, direct)):
        return None
    return IrohAddress(endpoint_id, direct, relays[0] if relays else None)


def _is_socket_address(place: str) -> bool:
    try:
        host, _ = split_address(place)
        ipaddress.ip_address(host)
    except (BadInput, ValueError):
        return False
    return True


def load_iroh() -> Iroh:
    """The module, with its copying mended; raises BadInput if it is not installed."""
    try:
        module = importlib.import_module("iroh")
        bindings = importlib.import_module("iroh.iroh_ffi")
    except ImportError:
        text = "this needs iroh, which is not installed: pip install 'shardline[nat]'"
        raise BadInput(text) from None
    builder: Any = getattr(bindings, "_UniffiRustBufferBuilder", None)
    write = getattr(builder, "write", None)
    if isinstance(write, FunctionType) and "enumerate" in write.__code__.co_names:
        builder.write = _write_at_once
    return cast("Iroh", module)


def _write_at_once(self: Any, value: bytes) -> None:  # noqa: ANN401 - a private class of theirs
    size = len(value)
    with self._reserve(size):
        start = ctypes.addressof(self.rbuf.data.contents) + self.rbuf.len
        ctypes.memmove(start, bytes(value), size)


def relay_mode(iroh: Iroh, relays: tuple[str, ...]) -> RelayMode:
    """The relays to use; raises BadInput for what is no url."""
    if not relays:
        return iroh.RelayMode.disabled()
    if relays == PUBLIC_RELAYS:
        return iroh.RelayMode.default_mode()
    try:
        return iroh.RelayMode.custom_from_urls(list(relays))
    except iroh.IrohError:
        raise BadInput(f"no urls of relays: {', '.join(relays)}") from None


async def bind(iroh: Iroh, settings: IrohSettings, mode: RelayMode) -> Endpoint:
    """An endpoint with a key of its own; raises AddressTaken or BadInput."""
    host, _ = split_address(settings.listen)
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        raise BadInput(f"{settings.listen!r} is no IP:PORT to listen on") from None
    builder = iroh.EndpointBuilder()
    builder.apply_minimal()
    builder.relay_mode(mode)
    builder.alpns([ALPN])
    if not ip.is_unspecified:  # else iroh's own choice for the other family is everywhere
        builder.bind_addr("127.0.0.1:0" if ip.version == 6 else "[::1]:0")  # noqa: PLR2004
    try:
        builder.bind_addr(settings.listen)
        return await builder.bind()
    except iroh.IrohError:
        text = "the port is in use, or the address is not this machine's"
        raise AddressTaken(f"cannot listen on UDP {settings.listen}: {text}") from None


def published(endpoint: Endpoint) -> str:
    """This endpoint's address, as it is now."""
    known = endpoint.addr()
    return str(IrohAddress(str(endpoint.id()), tuple(known.direct_addresses()), known.relay_url()))


def endpoint_addr(iroh: Iroh, address: IrohAddress, mode: RelayMode) -> EndpointAddr:
    """What iroh dials. A relay that is not one of ours is left out: a peer names it, not we."""
    relay = address.relay
    if relay is not None and not mode.relay_map().contains(relay):
        relay = None
    peer = iroh.EndpointId.from_string(address.endpoint_id)
    return iroh.EndpointAddr(peer, relay, list(address.direct))


def route_of(paths: Iterable[Path]) -> Route:
    """Which way a connection's data takes: over its selected path."""
    relayed = any(path.is_relay for path in paths if path.is_selected)
    return "relayed" if relayed else "direct"
