"""What an invite's engines give a member: a transport, a directory, and ways to it.

Records go over zenoh, and so do activations, unless the invite says `nat`: then these go over iroh,
which finds ways through NATs by itself. Where a DHT is the directory: `places_dht.py`.
"""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psutil

from shardline.swarm.certificates import issue_tls
from shardline.swarm.directories.memory import MemoryBoard, MemoryDirectory
from shardline.swarm.directories.zenoh import ZenohDirectory
from shardline.swarm.invite import NO_RELAY
from shardline.swarm.records import ADDRESSES_MAX
from shardline.wire import (
    IrohSettings,
    IrohTransport,
    MemoryNetwork,
    ZenohSettings,
    ZenohTransport,
    open_zenoh,
    split_address,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from shardline.core.clock import Clock
    from shardline.core.ids import NodeId
    from shardline.core.signer import Signer
    from shardline.swarm.directory import Directory
    from shardline.swarm.invite import Invite
    from shardline.wire import Transport

__all__ = [
    "Dialling",
    "MemoryBacking",
    "Place",
    "memory_place",
    "through_nats",
    "zenoh_place",
]

_WILDCARDS: Final = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound


class MemoryBacking:
    """What members in one event loop share instead of an engine; swarms stay apart in it."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self._boards: dict[str, MemoryBoard] = {}

    def board(self, prefix: str) -> MemoryBoard:
        """The board of the swarm with this prefix."""
        return self._boards.setdefault(prefix, MemoryBoard())


@dataclass(frozen=True, slots=True)
class Dialling:
    """Where to listen, whom to dial, and whether others come through whom we dial."""

    listen: str | None
    bootstrap: tuple[str, ...]
    known: tuple[str, ...] = ()
    relayed: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """What the engines give; the transport is still to be entered."""

    transport: Transport
    directory: Directory
    listening: tuple[str, ...] = ()
    """Where others knock who have the invite, as it writes it, of all interfaces as well."""
    through: Callable[[], str] = str
    """The address of the node that others reach us through now; empty if they dial us."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where others can dial us, best first, as it is now; the transport is entered."""
        if isinstance(self.transport, IrohTransport):
            return self.transport.address, *_dialable(self.listening)[: ADDRESSES_MAX - 1]
        return _dialable(self.listening)

    def route(self, peer: NodeId) -> str | None:
        """`direct` or `relayed`, where the transport chooses the way to each peer itself."""
        return self.transport.route(peer) if isinstance(self.transport, IrohTransport) else None

    def with_addresses(self, invite: Invite) -> Invite:
        """The invite with what we listen on, but for all interfaces: others see one of them."""
        for address in self.listening:
            if split_address(address.partition("/")[0])[0] not in _WILDCARDS:
                invite = invite.with_bootstrap(address)
        return invite


@asynccontextmanager
async def zenoh_place(
    invite: Invite, identity: Signer, dialling: Dialling, clock: Clock
) -> AsyncGenerator[Place]:
    """A place in a network of machines."""
    settings = ZenohSettings(
        listen=dialling.listen,
        connect=dialling.bootstrap,
        known=dialling.known,
        tls=issue_tls(invite, clock=clock),
        through_one=dialling.relayed,
    )
    async with open_zenoh(settings) as engine:
        directory = ZenohDirectory(engine.session, invite.prefix, identity, clock)
        transport: Transport = ZenohTransport(engine, invite.prefix, identity.node_id)
        if invite.nat is not None:
            transport = through_nats(invite.nat, dialling.listen, identity.node_id, directory)

        def through() -> str:
            return next(iter(engine.dialled), "") if dialling.relayed else ""

        yield Place(transport, directory, engine.listening, through)


@asynccontextmanager
async def memory_place(
    invite: Invite, identity: Signer, memory: MemoryBacking, clock: Clock
) -> AsyncGenerator[Place]:
    """A place among members in this event loop."""
    transport = memory.network.endpoint(identity.node_id)
    yield Place(transport, MemoryDirectory(memory.board(invite.prefix), identity, clock))


def through_nats(relay: str, listen: str | None, me: NodeId, directory: Directory) -> Transport:
    """Over iroh. Listens on the same interfaces as the directory, or on all if that only dials."""
    host = _WILDCARDS[0] if listen is None else split_address(listen)[0]
    here = f"[{host}]:0" if ":" in host else f"{host}:0"
    relays = () if relay == NO_RELAY else (relay,)

    async def find(peer: NodeId) -> Sequence[str]:
        record = (await directory.snapshot()).records.get(peer)
        return record.addresses if record else ()

    return IrohTransport(IrohSettings(listen=here, relays=relays), me, find)


def _dialable(listening: tuple[str, ...]) -> tuple[str, ...]:
    """What others can dial: of all interfaces the IPv4 addresses, loopback last."""
    found: list[str] = []
    for address in listening:
        where, slash, name = address.partition("/")
        host, port = split_address(where)
        if host not in _WILDCARDS:
            found.append(address)
            continue
        own = {
            known.address
            for interface in psutil.net_if_addrs().values()
            for known in interface
            if known.family == socket.AF_INET
        }
        ranked = sorted(own, key=lambda text: (text.startswith("127."), text))
        found += [f"{text}:{port}{slash}{name}" for text in ranked]
    return tuple(found[:ADDRESSES_MAX])
