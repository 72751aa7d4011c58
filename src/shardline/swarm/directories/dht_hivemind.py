"""Joining a DHT with hivemind, and what of hivemind we use, as small protocols.

hivemind runs libp2p in a daemon of its own: a child process that ends with us, killed or not. The
rest of it lives in our event loop. Its `DHT` class, which forks a process for that rest, is not
used: one must not fork beside zenoh. It brings torch along, so it is imported when a DHT is opened.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import re
import signal
import tempfile
import warnings
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from shardline.core.errors import AddressTaken, BadInput, NodeLost
from shardline.swarm.directories.dht_names import PEER, key_file

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Iterator, Mapping, Sequence

__all__ = [
    "DhtSettings",
    "Found",
    "Gate",
    "Hivemind",
    "Node",
    "Part",
    "Record",
    "Stored",
    "answering",
    "load_hivemind",
]

LEASE_MAX_S: Final = 60.0
"""Longer leases are refused: the dead would seem to live on."""
START_S: Final = 60.0
"""How long the daemon may take to start; on an idle machine it is 0.3 s."""
REPLY_S: Final = 5.0
"""How long to wait for one member's answer."""
PROBE_S: Final = 1.0
"""How long a member's port may take to answer; the daemon itself would wait for minutes."""

_HOST = r"/(ip4|ip6|dns|dns4|dns6)/[^/,\s]+/tcp/\d{1,5}"
_IDENTIFY: Final = bytes((2, 0x08, 0))
"""The daemon's simplest question, as it reads it: a length, and a request of the first kind."""
_LISTEN = re.compile(_HOST)
_PEER = re.compile(_HOST + rf"/p2p/{PEER}")


@dataclass(frozen=True, slots=True)
class DhtSettings:
    """How one process joins a DHT. Raises BadInput for what is no address."""

    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    """Multiaddrs, TCP only (the daemon's QUIC has known holes); empty dials out only, and stores
    nothing for others."""
    peers: tuple[str, ...] = ()
    """Members' multiaddrs with their `/p2p/` part; any one that answers is enough. Empty begins a
    new DHT."""
    founds: bool = False
    """Whether it begins one too where no peer answers."""
    announce: tuple[str, ...] = ()
    """Multiaddrs under which others see us, if not those we listen on."""
    seed: bytes | None = field(default=None, repr=False)
    """32 bytes, the daemon's own key; with it and a fixed port our address survives a restart.
    None draws one."""
    lease_s: float = 15.0
    """A death or a withdrawal is noticed within this; shorter is sooner and stores more often."""
    poll_s: float = 5.0
    """A watcher notices the rest within this; shorter is sooner, and reads all records each time,
    from each member that stores them."""

    def __post_init__(self) -> None:
        for address in (*self.listen, *self.announce):
            if not _LISTEN.fullmatch(address):
                raise BadInput(f"{address!r} is no address for a DHT: write /ip4/HOST/tcp/PORT")
        for address in self.peers:
            if not _PEER.fullmatch(address):
                raise BadInput(
                    f"{address!r} is no member of a DHT: write /ip4/HOST/tcp/PORT/p2p/PEER"
                )
        if not 0 < self.lease_s <= LEASE_MAX_S or self.poll_s <= 0:
            raise ValueError(f"a lease of {self.lease_s} s, a poll every {self.poll_s} s")


class Record(Protocol):
    """What a member is asked to store, or is told; all of it is a stranger's, even its types."""

    key: bytes
    subkey: bytes
    value: bytes
    expiration_time: float


class Gate(Protocol):
    """A record validator."""

    def validate(self, record: Record) -> bool:
        """Whether to store or believe it."""
        ...

    def sign_value(self, record: Record) -> bytes:
        """The value to store."""
        ...

    def strip_value(self, record: Record) -> bytes:
        """The value that was stored."""
        ...


class Stored(Protocol):
    """A value with its end, in seconds since 1970."""

    value: bytes
    expiration_time: float


class Found(Protocol):
    """All that was found under one key."""

    value: dict[str, Stored]


class _Shard(Protocol):
    def items(self) -> Iterator[tuple[object, Stored]]: ...
    def __delitem__(self, place: object) -> None: ...


class _StoredShard(Protocol):
    value: _Shard


class _Storage(Protocol):
    def items(self) -> Iterator[tuple[object, _StoredShard]]: ...


class _Table(Protocol):
    uid_to_peer_id: Mapping[object, object]


class _Rules(Protocol):
    storage: _Storage
    routing_table: _Table


class _P2P(Protocol):
    async def answer(self) -> None: ...
    async def get_visible_maddrs(self) -> list[object]: ...
    async def ended(self) -> None: ...
    async def end(self) -> None: ...


class Node(Protocol):
    """One member's part of the DHT."""

    protocol: _Rules
    p2p: _P2P

    async def store(self, key: str, value: bytes, until_s: float, /, *, subkey: str) -> bool:
        """Store at the members nearest to the key; false if none took it."""
        ...

    async def get_many(
        self, keys: Collection[str], enough_s: float, /, *, return_futures: bool
    ) -> dict[str, asyncio.Future[Found | None]]:
        """Ask the members nearest to each key until one has a value that ends after `enough_s`."""
        ...


class _CreatesP2P(Protocol):
    async def create(self, **settings: object) -> _P2P: ...


class _CreatesNode(Protocol):
    async def create(self, **settings: object) -> Node: ...


class _Digest(Protocol):
    def to_bytes(self) -> bytes: ...


class _Digests(Protocol):
    def generate(self, source: str) -> _Digest: ...


@dataclass(frozen=True, slots=True)
class Part:
    """Our part of a DHT, for as long as one daemon lives."""

    node: Node
    addresses: tuple[str, ...]
    """Multiaddrs at which others can join through us; empty for who only dials."""
    ended: asyncio.Future[None]
    """Done when the daemon has ended."""

    @property
    def alone(self) -> bool:
        """Whether no other member is known; one that does not answer is forgotten."""
        return not self.node.protocol.routing_table.uid_to_peer_id


async def _ended(self: Any) -> None:  # noqa: ANN401 - a method of hivemind's class
    await self._child.wait()


async def _answer(self: Any) -> None:  # noqa: ANN401
    # Its own calls leave their sockets open when nobody answers.
    reader, writer = await asyncio.open_unix_connection(self._daemon_listen_maddr["unix"])
    try:
        writer.write(_IDENTIFY)
        if not await reader.read(1):
            raise EOFError
    finally:
        writer.close()


async def _end(self: Any) -> None:  # noqa: ANN401
    if self._client is not None:
        control = self._client.control
        for task in (control._read_task, control._write_task):  # noqa: SLF001
            task.add_done_callback(_heed)
    if self._child is not None:
        # A frozen one would never hear that it should end; asyncio's own `kill` may take a dead
        # one's exit code away from its own watcher.
        if self._child.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self._child.pid, signal.SIGKILL)
            await self._child.wait()
        self._child._transport.close()  # noqa: SLF001 - its pipes, which nobody reads any more
    await self.shutdown()


def _heed(task: asyncio.Task[None]) -> None:
    """That its connection broke is no news any more."""
    if not task.cancelled():
        task.exception()


@dataclass(frozen=True, slots=True)
class Hivemind:
    """What we use of the package."""

    p2p: type[object]
    nodes: _CreatesNode
    digests: _Digests
    daemon_error: type[Exception]
    joining_error: type[Exception]

    def key(self, text: str) -> bytes:
        """What members call this key among themselves."""
        return self.digests.generate(text).to_bytes()

    @asynccontextmanager
    async def join(self, settings: DhtSettings, gate: Gate) -> AsyncGenerator[Part]:
        """Start a daemon and join. See `open_dht`."""
        peers = await answering(settings.peers)
        if settings.peers and not peers and not settings.founds:
            raise _nobody(settings.peers)
        async with self._daemon(settings, peers) as p2p:
            ended = asyncio.create_task(p2p.ended())
            node = await self._join(p2p, settings, peers, gate)
            addresses = await p2p.get_visible_maddrs() if settings.listen else []
            yield Part(node, tuple(map(str, addresses)), ended)
            # The node's own shutdown would wait for a dead daemon for ever.

    @asynccontextmanager
    async def _daemon(self, settings: DhtSettings, peers: Sequence[str]) -> AsyncGenerator[_P2P]:
        """One that ends with this context, also if it did not get to its start's end."""
        started: list[_P2P] = []

        def init(p2p: _P2P) -> None:
            self.p2p.__init__(p2p)
            started.append(p2p)

        own = {"__init__": init, "ended": _ended, "end": _end, "answer": _answer}
        with tempfile.TemporaryDirectory(prefix="shardline-") as folder:
            ours = type("P2P", (self.p2p,), own | {"_UNIX_SOCKET_PREFIX": f"/unix{folder}/"})
            try:
                yield await self._create(cast("_CreatesP2P", ours), settings, peers, folder)
            finally:
                for p2p in started:
                    await p2p.end()

    async def _create(
        self, ours: _CreatesP2P, settings: DhtSettings, peers: Sequence[str], folder: str
    ) -> _P2P:
        """For discovery only: no relay, no hole in the router. Its sockets lie in the folder."""
        path = None
        if settings.seed is not None:
            path = Path(folder) / "key"  # a folder that nobody else can read
            path.write_bytes(key_file(settings.seed))
        try:
            return await ours.create(
                initial_peers=peers,
                announce_maddrs=settings.announce or None,
                host_maddrs=settings.listen,
                no_listen=not settings.listen,
                dht_mode="server" if settings.listen else "client",
                identity_path=str(path) if path else None,
                check_if_identity_free=False,
                auto_nat=False,
                nat_port_map=False,
                use_relay=False,
                startup_timeout=START_S,
            )
        except self.daemon_error as error:
            raise _start_error(str(error), settings) from None

    async def _join(
        self, p2p: _P2P, settings: DhtSettings, peers: Sequence[str], gate: Gate
    ) -> Node:
        """All caches are off: a cached shard would hide the stored one from whoever asks."""
        try:
            return await self.nodes.create(
                p2p=p2p,
                initial_peers=peers,
                client_mode=not settings.listen,
                wait_timeout=REPLY_S,
                record_validator=gate,
                reuse_get_requests=False,
                cache_locally=False,
                cache_nearest=0,
                cache_on_store=False,
                cache_refresh_before_expiry=0,
                cache_size=-1,  # what others put there goes at once; 0 would be no limit
            )
        except self.joining_error as error:
            raise BadInput(f"cannot join the DHT: {error}") from None
        except RuntimeError:
            raise _nobody(peers) from None


async def answering(peers: Sequence[str]) -> tuple[str, ...]:
    """Those whose port takes connections."""

    async def answers(peer: str) -> bool:
        _, _, host, _, port, *_ = peer.split("/")
        try:
            async with asyncio.timeout(PROBE_S):
                _, writer = await asyncio.open_connection(host, int(port))
        except OSError:  # a timeout is one too
            return False
        writer.close()
        return True

    answered = await asyncio.gather(*map(answers, peers))
    return tuple(peer for peer, answer in zip(peers, answered, strict=True) if answer)


def _nobody(peers: Sequence[str]) -> NodeLost:
    return NodeLost(f"no answer from the DHT at {', '.join(peers)}")


def _start_error(said: str, settings: DhtSettings) -> Exception:
    """The daemon's last words as an error of the house."""
    if "bootstrap" in said:
        return _nobody(settings.peers)
    reason = said.rpartition(": ")[2]
    if "failed to listen" in said:
        return AddressTaken(f"cannot listen on {', '.join(settings.listen)}: {reason}")
    return BadInput(f"the DHT does not start: {reason}")


async def load_hivemind() -> Hivemind:
    """Import the package, which takes seconds; raises BadInput if it is missing."""
    return await asyncio.to_thread(_load)


def _load() -> Hivemind:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            p2p: Any = importlib.import_module("hivemind.p2p")
            dht: Any = importlib.import_module("hivemind.dht.node")
            rules: Any = importlib.import_module("hivemind.dht.protocol")
            errors: Any = importlib.import_module("hivemind.p2p.p2p_daemon_bindings.utils")
            logs: Any = importlib.import_module("hivemind.utils.logging")
    except ImportError as error:
        raise BadInput(f"the DHT needs hivemind: pip install 'shardline[dht]' ({error})") from None
    logs.use_hivemind_log_handler("nowhere")
    logging.getLogger("hivemind").setLevel(logging.ERROR)  # its warnings are peers' misdeeds
    logging.addLevelName(logging.WARNING, "WARNING")  # the import renamed it for all
    return Hivemind(p2p.P2P, dht.DHTNode, dht.DHTID, errors.P2PDaemonError, rules.ValidationError)
