"""A DHT as the directory uses it: leases of signed records under a few keys.

A lease says that a node lives. It stands under one of SHARDS keys of its swarm, by the node's
first digit, at `<node>/<sequence>`, and holds the node's record of this sequence: an old record
played again takes no new one's place. Every member checks this before it stores or believes a lease
(`LeaseGate`), and stores nothing else: one DHT serves one swarm.

Nothing says that all who hear a lease hear the same, and whoever has a record can lease it until
the record ends. Strangers can join, read all records, and crowd out honest leases with many
identities of their own: shards are bounded, and keep what ends last.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from shardline.core.errors import BadInput, PeerFault
from shardline.core.ids import NodeId
from shardline.swarm.directories.dht_hivemind import LEASE_MAX_S, answering, load_hivemind
from shardline.swarm.directories.dht_names import multiaddr
from shardline.swarm.records import RECORD_BYTES_MAX, Foreign, NodeRecord, open_record

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping

    from shardline.swarm.directories.dht_hivemind import (
        DhtSettings,
        Found,
        Hivemind,
        Part,
        Record,
        Stored,
    )

__all__ = ["ASK_S", "DhtEngine", "Lease", "LeaseGate", "checked", "open_dht", "overflow"]

SHARDS: Final = "0123456789abcdef"
"""One key each: an answer with all of a key's leases has to fit hivemind's 2 MB."""
SHARD_BYTES_MAX: Final = 2**20
"""Leases of one key that a member stores for others."""
CLOCKS_S: Final = 3.0
"""How far members' clocks may differ: hivemind lets nobody join whose differ more."""
RENEWALS: Final = 3
"""Times that a lease is renewed before it would end."""
ASK_S: Final = 1.0
"""How long to wait for the slowest member; what it says later counts the next time."""
DAEMON_S: Final = 15.0
"""How long the daemon may be silent on its own machine before it counts as dead."""
AGAIN_S: Final = 0.5
"""How long to wait before an ended daemon is started again; doubles up to AGAIN_MAX_S while that
fails, or while none lives longer than that."""
AGAIN_MAX_S: Final = 60.0
ENTRANCES_MAX: Final = 24
"""Members that were heard of and may be asked when we have to join again."""
HEARD_MAX: Final = 8_192
"""Leases remembered until they end."""
REFUSED_MAX: Final = 64
"""Nodes whose false records are remembered, for the log."""

_CHECKED_MAX = 4_096
_PLACE = re.compile(r"([0-9a-f]{64})/(0|[1-9][0-9]{0,18})")

_log = logging.getLogger("shardline.swarm")

checked = lru_cache(_CHECKED_MAX)(open_record)
"""`open_record`, remembering: every member tells every record again and again."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Somebody says that this node lives, and that this is its record of this sequence."""

    node: NodeId
    sequence: int
    data: bytes
    until_s: float
    """Seconds since 1970, by the clock that hivemind keeps members to."""

    @property
    def place(self) -> str:
        """Where it stands under its key."""
        return f"{self.node}/{self.sequence}"


class LeaseGate:
    """What a member lets into its store and believes of others; `keys` gives each key's digit.

    Stateless, because one refused lease makes hivemind drop all others of the same answer: what
    an honest member stored must never become false while it stands there.
    """

    def __init__(self, keys: Mapping[bytes, str]) -> None:
        self._keys = keys
        self.refused: dict[NodeId, bytes] = {}
        """What stood in these nodes' places and was refused."""

    def validate(self, record: Record) -> bool:
        """Whether this is a lease of ours: in its place, signed, and not too long."""
        lease = _read(record)
        if lease is None or self._keys.get(record.key) != lease.node[0]:
            return False
        if not lease.until_s <= time.time() + LEASE_MAX_S + CLOCKS_S:
            return False
        with suppress(PeerFault):
            said = checked(lease.data)
            if said.node == lease.node:
                return isinstance(said, Foreign) or said.sequence == lease.sequence
        if len(self.refused) < REFUSED_MAX:
            self.refused.setdefault(lease.node, lease.data)
        return False

    def sign_value(self, record: Record) -> bytes:
        """Nothing to add: records are signed already."""
        return record.value

    def strip_value(self, record: Record) -> bytes:
        """Nothing to take away."""
        return record.value


def _read(record: Record) -> Lease | None:
    """The lease; None if this cannot be one. What is too long is cut to what is still too long."""
    try:
        place = _PLACE.fullmatch(msgspec.msgpack.decode(record.subkey, type=str))
        data = msgspec.msgpack.decode(record.value, type=bytes)[: RECORD_BYTES_MAX + 1]
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError):
        return None
    if place is None or not isinstance(record.expiration_time, float):
        return None
    return Lease(NodeId(place[1]), int(place[2]), data, record.expiration_time)


def overflow(leases: Iterable[tuple[object, Stored]]) -> list[object]:
    """Places of the leases that a shard has no room for: those that end first."""
    room = SHARD_BYTES_MAX
    gone: list[object] = []
    for place, stored in sorted(leases, key=lambda item: -item[1].expiration_time):
        room -= len(stored.value)
        if room < 0:
            gone.append(place)
    return gone


class DhtEngine:
    """An open DHT of one swarm. While its daemon is being replaced, nothing is told or heard."""

    def __init__(
        self, hivemind: Hivemind, prefix: str, gate: LeaseGate, settings: DhtSettings
    ) -> None:
        self._hivemind = hivemind
        self._prefix = prefix
        self._gate = gate
        self._daemon = AsyncExitStack()
        self._part: Part | None = None
        self._heard: dict[str, Lease] = {}
        self._entrances: tuple[str, ...] = settings.peers
        self._kept: tuple[NodeId, int, bytes] | None = None
        self._stopped = False
        self._woken = asyncio.Event()
        self.settings = settings
        self.news = asyncio.Event()
        """Set when an unknown lease is heard, whoever asked; then there is a fresh one."""
        self.addresses: tuple[str, ...] = ()
        """Multiaddrs at which others can join through us; empty for who only dials."""

    @property
    def refused(self) -> Mapping[NodeId, bytes]:
        """What stood in these nodes' places and was no lease of theirs; bounded, for the log."""
        return self._gate.refused

    async def keep(self, node: NodeId, sequence: int, data: bytes) -> None:
        """Lease this, and renew the lease, until something else is kept or it is dropped."""
        self._kept = (node, sequence, data)
        await self.lease(node, sequence, data)

    def drop(self) -> None:
        """Renew no more: what was kept ends with its lease."""
        self._kept = None

    async def lease(self, node: NodeId, sequence: int, data: bytes) -> None:
        """Lease this once. Nothing is checked: others do."""
        until_s = time.time() + self.settings.lease_s
        place = Lease(node, sequence, data, until_s).place
        if self._part is not None:
            key = f"{self._prefix}/{node[0]}"
            await self._part.node.store(key, data, until_s, subkey=place)

    async def leases(self) -> list[Lease]:
        """All that run now, several of a node among them; takes at most about ASK_S."""
        await self.ask()
        return self.heard()

    def heard(self) -> list[Lease]:
        """Those heard that still run; asks nobody."""
        now_s = time.time()
        self._heard = {at: lease for at, lease in self._heard.items() if lease.until_s > now_s}
        return list(self._heard.values())

    async def ask(self) -> None:
        """Ask the others for all leases; takes at most about ASK_S."""
        if self._part is None:
            await asyncio.sleep(0)  # who asks on and on lets the new daemon start
            return
        keys = [f"{self._prefix}/{digit}" for digit in SHARDS]
        # No lease is long enough to end the search: no member alone has all of them.
        found = await self._part.node.get_many(keys, math.nan, return_futures=True)
        for answer in found.values():
            answer.add_done_callback(self._hear)
        await asyncio.wait(found.values(), timeout=ASK_S)

    def _hear(self, answer: asyncio.Future[Found | None]) -> None:
        found = None if answer.cancelled() or answer.exception() else answer.result()
        for place, stored in found.value.items() if found else ():
            known, until_s = self._heard.get(place), stored.expiration_time
            if (known.until_s < until_s) if known else (len(self._heard) < HEARD_MAX):
                node, _, sequence = place.partition("/")
                self._heard[place] = Lease(NodeId(node), int(sequence), stored.value, until_s)
                if known is None:
                    self.news.set()
                    self.news = asyncio.Event()

    async def start(self) -> None:
        """Start a daemon and join through who is known; raises what `open_dht` does."""
        settings = replace(self.settings, peers=self._entrances)
        part = await self._daemon.enter_async_context(self._hivemind.join(settings, self._gate))
        self._part, self.addresses = part, part.addresses

        def wake(_: object) -> None:
            if self._part is part:  # it has ended by itself
                self._woken.set()

        part.ended.add_done_callback(wake)

    async def end(self) -> None:
        """End the daemon, dead or alive."""
        self._part = None
        await self._daemon.aclose()

    async def run(self) -> None:
        """Tend what is kept and stored; put another daemon in the place of one that ends."""
        again_s = AGAIN_S
        while (part := self._part) is not None:
            began_s = time.monotonic()
            fault = await self._tend_until_fault(part)
            if fault is None:
                return
            _log.warning("the DHT's daemon %s: it is started again", fault)
            await self.end()
            if time.monotonic() - began_s > AGAIN_MAX_S:
                again_s = AGAIN_S
            again_s = await self._start_again(again_s)

    def stop(self) -> None:
        """Let `run` end what it does and return: hivemind does not bear being cancelled."""
        self._stopped = True
        self._woken.set()

    async def _start_again(self, again_s: float) -> float:
        """Until one starts, or we are told to stop; gives how long to wait before the next one."""
        while not await self._stopped_within(again_s):
            again_s = min(2 * again_s, AGAIN_MAX_S)
            try:
                await self.start()
            except Exception as error:  # noqa: BLE001 - task's supervisor: it tries again later
                _log.info("the DHT's daemon does not start yet: %s", error)
            else:
                _log.info("the DHT's daemon is back")
                break
        return again_s

    async def _stopped_within(self, wait_s: float) -> bool:
        """Sleep; a daemon's end and `stop` wake it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._woken.wait()
        if not self._stopped:
            self._woken.clear()
        return self._stopped

    async def _tend_until_fault(self, part: Part) -> str | None:
        """What is wrong with the daemon; None when told to stop."""
        while not part.ended.done():
            try:
                await self._tend(part)
                async with asyncio.timeout(DAEMON_S):
                    await part.node.p2p.answer()
                if part.alone and await answering(self._entrances):
                    return "has lost all others"
            except TimeoutError:
                return "is silent"
            except (OSError, EOFError):
                break
            except Exception:  # noqa: BLE001 - task's supervisor: what fails once is tried again
                _log.warning("the DHT could not be tended", exc_info=True)
            if await self._stopped_within(self.settings.lease_s / RENEWALS):
                return None
        return "has ended"

    async def _tend(self, part: Part) -> None:
        if self._kept is not None:
            await self.lease(*self._kept)
        for _, shard in part.node.protocol.storage.items():  # noqa: PERF102 - it is no dict
            for place in overflow(shard.value.items()):
                del shard.value[place]
        self._entrances = self._known_entrances()

    def _known_entrances(self) -> tuple[str, ...]:
        """Where to join again: as told at first, and where the others said that they listen."""
        found = dict.fromkeys(self.settings.peers)
        own = self._kept[0] if self._kept else None
        for lease in self._heard.values():
            with suppress(PeerFault):
                said = checked(lease.data)
                if isinstance(said, NodeRecord) and said.node != own:
                    found |= dict.fromkeys(_entrances(said))
        kept = dict.fromkeys((*found, *self._entrances))  # who was heard before, behind
        return tuple(kept)[: len(self.settings.peers) + ENTRANCES_MAX]


def _entrances(record: NodeRecord) -> Iterable[str]:
    for address in record.addresses:
        with suppress(BadInput):
            yield multiaddr(address)


@asynccontextmanager
async def open_dht(settings: DhtSettings, prefix: str) -> AsyncGenerator[DhtEngine]:
    """Join the DHT of the swarm with this prefix, or begin it; leaving ends the daemon.

    A daemon that dies meanwhile is replaced, and what was kept is leased again. Raises BadInput
    without the extra `dht` or if our clock or reachability is not what a DHT needs, AddressTaken,
    or NodeLost if no peer answers.
    """
    hivemind = await load_hivemind()
    gate = LeaseGate({hivemind.key(f"{prefix}/{digit}"): digit for digit in SHARDS})
    engine = DhtEngine(hivemind, prefix, gate, settings)
    try:
        await engine.start()
        running = asyncio.create_task(engine.run())
        try:
            yield engine
        finally:
            engine.stop()
            await running
    finally:
        await engine.end()
