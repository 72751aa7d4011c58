"""Opening a zenoh session as a swarm wants it (decision 0002).

Peers find each other by gossip from any address they are told, never by multicast; links are
mutual TLS with certificates from the invite; shared memory is off, because it would carry
payloads past TLS. Zenoh must not live through a fork: spawn processes.

Peers are linked each to each and pass nothing on. Who must be found by members that cannot dial it
is a client: of one peer at a time, which passes on what is for it, and of the next one when that
ends. Links between peers are as direct as without.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import socket
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import zenoh

from shardline.core.errors import AddressTaken, BadInput, ForeignInvite, NodeLost, Unsupported
from shardline.wire.frames import FRAME_BYTES_MAX
from shardline.wire.transports.zenoh_redial import Redial

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from shardline.wire.transports.zenoh_types import Closes, KnowsLinks, Undeclares

__all__ = [
    "TlsFiles",
    "ZenohEngine",
    "ZenohSettings",
    "claim_address",
    "is_own_address",
    "join_address",
    "open_zenoh",
    "split_address",
]

CONNECT_S: Final = 4.0
"""How long to wait for the first of the addresses to let us in."""
PROBE_S: Final = 1.0
LOOPBACK: Final = "127.0.0.1:0"
PORT_TRIES: Final = 5
_OVERHEAD_BYTES: Final = 64 * 2**10
_WILDCARDS: Final = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """A swarm's certificate authority and this node's certificate, as PEM texts."""

    ca_pem: str
    certificate_pem: str
    key_pem: str


@dataclass(frozen=True, slots=True)
class ZenohSettings:
    """How one process joins; presets live with the commands."""

    listen: str | None
    """HOST:PORT (port 0: any free one; IPv6 in brackets); None dials out only, as callers do.
    Then only a port of the loopback is listened at, for what dials broken links again."""
    connect: tuple[str, ...] = ()
    """Addresses of other nodes; any one that answers is enough. Over TLS zenoh 1.10 dials no IPv6
    address ("invalid dns name"): give a host name."""
    tls: TlsFiles | None = None
    """None leaves links open: frames are sealed all the same, but strangers can connect."""
    lease_s: float = 3.0
    """A silent link counts as lost after this; shorter finds frozen nodes sooner, longer rides
    out worse networks. A killed process is noticed at once in any case."""
    frame_bytes_max: int = FRAME_BYTES_MAX
    """Longer messages are dropped on arrival."""
    known: tuple[str, ...] = ()
    """More addresses, which may be wrong: dialled too, and never named when nobody answers."""
    through_one: bool = False
    """Dial one of `connect` at a time and be found by everyone through it; costs a hop more to all
    others. Else every listening member is dialled, and only those find us."""


class ZenohEngine:
    """An open session and where it listens."""

    def __init__(
        self,
        session: zenoh.Session,
        listening: tuple[str, ...],
        settings: ZenohSettings,
        look_soon: Callable[[], None],
    ) -> None:
        self.session = session
        self.listening = listening
        self.settings = settings
        self.look_soon = look_soon
        """To be called when somebody came into reach or went: links are looked at then."""

    @property
    def dialled(self) -> tuple[str, ...]:
        """The other ends of our links as they are now; those of who dialled us have any port."""
        links = cast("KnowsLinks", self.session.info).links()
        return tuple(sorted({link.dst.partition("/")[2].partition("?")[0] for link in links}))


def split_address(text: str) -> tuple[str, int]:
    """`HOST:PORT` or `[IPv6]:PORT`; raises BadInput for anything else."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    valid = colon and bare and port.isdecimal() and int(port) < 2**16
    if not valid or (":" in bare) != (bare is not host):
        raise BadInput(f"{text!r} is no address: write HOST:PORT, or [IPv6]:PORT")
    return bare, int(port)


def join_address(host: str, port: int) -> str:
    """What `split_address` splits."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def claim_address(listen: str) -> str:
    """The address with its real port, seen to be free; raises AddressTaken or BadInput."""
    host, port = split_address(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
            return join_address(host, int(probe.getsockname()[1]))
    except socket.gaierror:
        raise AddressTaken(f"cannot listen on {listen}: no such host") from None
    except OSError as error:
        reasons = {
            errno.EADDRINUSE: "the port is in use",
            errno.EADDRNOTAVAIL: "the address is not this machine's",
            errno.EACCES: "the port is reserved to root",
        }
        reason = reasons.get(error.errno or 0, error.strerror)
        raise AddressTaken(f"cannot listen on {listen}: {reason}") from None


def _listening(settings: ZenohSettings) -> str | None:
    """Where this session listens, for others or for itself alone; raises AddressTaken."""
    if settings.listen is not None:
        return claim_address(settings.listen)
    if settings.through_one:
        return None
    try:
        return claim_address(LOOPBACK)
    except AddressTaken:  # no loopback here: what breaks is dialled again if we were told of it
        return None


def is_own_address(address: str, listening: str | None) -> bool:
    """Whether this address leads back to where we listen."""
    if listening is None:
        return False
    (host, port), (own_host, own_port) = split_address(address), split_address(listening)
    if port != own_port:
        return False
    if host == own_host:
        return True
    if own_host not in _WILDCARDS:
        return False
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))  # only an address of this machine can be bound
    except OSError:
        return False
    return True


def _own_address(listening: str) -> str:
    """Where it can be dialled from this machine."""
    host, port = split_address(listening)
    return join_address({"0.0.0.0": "127.0.0.1", "::": "localhost"}.get(host, host), port)  # noqa: S104 - compared with


def _config(
    settings: ZenohSettings,
    listening: str | None,
    connect: list[str],
    heard: tuple[str, ...] = ("router", "peer"),
) -> zenoh.Config:
    """`heard`: of which kinds those that are heard of are dialled too."""
    scheme = "tls" if settings.tls else "tcp"
    link = {"protocols": [scheme], **_link_limits(settings)}
    if settings.tls:
        link["tls"] = _mutual_tls(settings.tls)
    listen = [f"{scheme}/{listening}"] if listening else []
    config = {
        "mode": "client" if settings.through_one else "peer",
        "listen": {"endpoints": {"peer": listen}, "exit_on_failure": True},
        "connect": {
            "endpoints": [f"{scheme}/{address}" for address in connect],
            "exit_on_failure": False,  # they are retried as long as the session lives
            "timeout_ms": 0,
            "retry": {"period_init_ms": 100, "period_max_ms": 2_000, "period_increase_factor": 2},
        },
        "scouting": {
            "multicast": {"enabled": False},
            "gossip": {"enabled": True, "autoconnect": {"peer": list(heard)}},
        },
        "transport": {"shared_memory": {"enabled": False}, "link": link},
    }
    return zenoh.Config.from_json5(json.dumps(config))


def _link_limits(settings: ZenohSettings) -> dict[str, Any]:
    # A link that takes nothing for a whole lease is as dead as one that says nothing.
    block = {"wait_before_close": round(settings.lease_s * 1_000_000)}
    return {
        "tx": {
            "lease": round(settings.lease_s * 1_000),
            "keep_alive": 4,
            "queue": {"congestion_control": {"block": block}},
        },
        "rx": {"max_message_size": settings.frame_bytes_max + _OVERHEAD_BYTES},
    }


def _mutual_tls(tls: TlsFiles) -> dict[str, Any]:
    return {
        "root_ca_certificate_base64": _base64(tls.ca_pem),
        "listen_certificate_base64": _base64(tls.certificate_pem),
        "listen_private_key_base64": _base64(tls.key_pem),
        "connect_certificate_base64": _base64(tls.certificate_pem),
        "connect_private_key_base64": _base64(tls.key_pem),
        "enable_mtls": True,
        "verify_name_on_connect": False,  # nodes are addresses; their keys name them
    }


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def _answering_first(addresses: list[str]) -> list[str]:
    """Clients dial one address after the other: those that take connections come first."""

    def answers(address: str) -> bool:
        try:
            with socket.create_connection(split_address(address), timeout=PROBE_S):
                return True
        except OSError:
            return False

    probes = [asyncio.to_thread(answers, address) for address in addresses]
    found = dict(zip(addresses, await asyncio.gather(*probes), strict=True))
    return sorted(found, key=lambda address: not found[address])


async def _open_session(
    settings: ZenohSettings,
) -> tuple[zenoh.Session, str | None, list[str]]:
    """The session, where it listens and whom it dials; raises AddressTaken."""
    for left in reversed(range(PORT_TRIES)):
        listening = _listening(settings)
        told = listening if settings.listen is not None else None
        addresses = dict.fromkeys(settings.connect + settings.known)
        dialled = [address for address in addresses if not is_own_address(address, told)]
        if settings.through_one:
            dialled = await _answering_first(dialled)
        config = _config(settings, listening, dialled)
        try:
            return await asyncio.to_thread(zenoh.open, config), listening, dialled
        except zenoh.ZError as error:
            if listening is None:
                raise NodeLost(f"the network engine does not start: {error}") from None
            # Another process was quicker; with port 0 there are more to choose from.
            if left == 0 or split_address(settings.listen or LOOPBACK)[1] != 0:
                raise AddressTaken(f"cannot listen on {listening}: the port is in use") from None
    raise AssertionError("unreachable")


async def _wait_for_link(session: zenoh.Session) -> bool:
    """Whether any other node is linked to us within CONNECT_S."""
    loop, linked = asyncio.get_running_loop(), asyncio.Event()

    def noticed(event: zenoh.TransportEvent) -> None:
        if event.kind == zenoh.SampleKind.PUT:
            loop.call_soon_threadsafe(linked.set)

    listener = cast(
        "Undeclares", session.info.declare_transport_events_listener(noticed, history=True)
    )
    try:
        async with asyncio.timeout(CONNECT_S):
            await linked.wait()
    except TimeoutError:
        return False
    finally:
        listener.undeclare()
    return True


def _probe(address: str, tls: TlsFiles | None) -> tuple[bool, str]:
    """Whether this address is another swarm's, and what is wrong with it, for a person."""
    try:
        with socket.create_connection(split_address(address), timeout=PROBE_S) as connection:
            if tls is None:
                return False, f"{address} answers but does not let us in"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.load_verify_locations(cadata=tls.ca_pem)
            with context.wrap_socket(connection):
                return False, f"{address} answers but does not let us in"
    except ssl.SSLError:
        return True, f"{address} is of another swarm"
    except OSError as error:
        return False, f"{address} cannot be reached ({error.strerror or 'no answer'})"


async def _diagnose(addresses: tuple[str, ...], tls: TlsFiles | None) -> ForeignInvite | NodeLost:
    """Why none of these addresses let us in."""
    probes = [asyncio.to_thread(_probe, address, tls) for address in addresses]
    found = await asyncio.gather(*probes)
    text = "; ".join(reason for _, reason in found)
    if any(foreign for foreign, _ in found):
        return ForeignInvite(f"the invite does not fit the swarm at its addresses: {text}")
    return NodeLost(f"no node of the swarm answers: {text}")


@asynccontextmanager
async def _keeping_links(
    session: zenoh.Session, listening: str | None, settings: ZenohSettings
) -> AsyncGenerator[Callable[[], None]]:
    """Meanwhile broken links are dialled again; zenoh does it by itself for who goes through one.
    Gives what has links looked at soon."""
    if listening is None or settings.through_one:
        yield lambda: None
        return

    def open_beside(addresses: list[str]) -> zenoh.Session:
        return zenoh.open(_config(settings, None, addresses, heard=()))

    redial = Redial(session, _own_address(listening), open_beside)
    watching = asyncio.create_task(redial.run())
    try:
        yield redial.look_soon
    finally:
        watching.cancel()
        await asyncio.wait({watching})


@asynccontextmanager
async def open_zenoh(settings: ZenohSettings) -> AsyncGenerator[ZenohEngine]:
    """A session that listens, and is linked to at least one of `connect`.

    A node that is itself one of `connect` needs no other: it is the first of its swarm, and so is
    one that has nobody to dial. Raises
    AddressTaken, BadInput for what is no address, Unsupported if all are IPv6 addresses over TLS,
    NodeLost if no address answers, ForeignInvite if one answers that our certificates do not fit.
    """
    hosts = [split_address(address)[0] for address in settings.connect]
    if settings.tls and hosts and all(":" in host for host in hosts):
        raise Unsupported("IPv6 addresses cannot be dialled over TLS: give a host name instead")
    session, listening, dialled = await _open_session(settings)
    try:
        is_first = any(address not in dialled for address in settings.connect)
        if dialled and not is_first and not await _wait_for_link(session):
            raise await _diagnose(settings.connect or settings.known, settings.tls)
        async with _keeping_links(session, listening, settings) as look_soon:
            told = (listening,) if listening and settings.listen is not None else ()
            yield ZenohEngine(session, told, settings, look_soon)
    finally:
        await asyncio.to_thread(cast("Closes", session).close)
