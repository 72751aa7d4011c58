"""Being a member: engine, transport, switchboard and directory, opened together and in order."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

from shardline.core.clock import SystemClock
from shardline.core.errors import BadInput, ProtocolMismatch
from shardline.core.ids import PROTOCOL, short
from shardline.swarm.places import Dialling, MemoryBacking, Place, memory_place, zenoh_place
from shardline.swarm.places_dht import dht_place
from shardline.wire import Switchboard

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from shardline.core.clock import Clock
    from shardline.core.errors import ShardlineError
    from shardline.core.ids import NodeId
    from shardline.core.signer import Signer
    from shardline.swarm.directory import Directory, Snapshot
    from shardline.swarm.invite import Invite
    from shardline.swarm.invite_store import AddressBook
    from shardline.wire import Message

    OnMessage = Callable[[NodeId, Message, list[memoryview]], None]
    OnLost = Callable[[NodeId, ShardlineError], None]

__all__ = ["Member", "MemoryBacking", "membership"]

REMEMBER_EVERY_S: Final = 60.0
"""How often a member writes down where the others can be dialled. Oftener asks them all oftener;
rarer forgets those who came since."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Member:
    """One process's place in a swarm."""

    node_id: NodeId
    switchboard: Switchboard
    place: Place
    """Where others reach us, and how we reach them."""
    invite: Invite
    """The invite with our own addresses in it, as far as others can use them: one that listens
    on all interfaces has to be told which address others see."""

    @property
    def directory(self) -> Directory:
        """Who is here."""
        return self.place.directory

    @property
    def listening(self) -> tuple[str, ...]:
        """HOST:PORT with real ports; empty for who only dials."""
        return self.place.listening


@asynccontextmanager
async def membership(  # noqa: PLR0913 - who, where, whom to tell; then twins for tests
    invite: Invite,
    identity: Signer,
    *,
    listen: str | None,
    on_message: OnMessage,
    on_lost: OnLost | None = None,
    serves: bool = False,
    book: AddressBook | None = None,
    memory: MemoryBacking | None = None,
    clock: Clock | None = None,
) -> AsyncGenerator[Member]:
    """Be a member of this invite's swarm; with `memory`, of one that lives in this process.

    `listen` is HOST:PORT, port 0 for any free one, None to dial out only: then others find us only
    if we dial them or, if we are one that `serves`, through the node that we dial. The addresses in
    `book` are dialled too, and those that are heard now are written there. For `on_message` and
    `on_lost` see Switchboard. Members are seen by others once they publish a record; leaving the
    context withdraws it. Raises InviteExpired, ForeignInvite, ProtocolMismatch, AddressTaken,
    BadInput for what is no address, for a node that neither listens nor dials and for a missing
    extra, or NodeLost if none of the invite's addresses answers.
    """
    clock = clock or SystemClock()
    invite.check_expiry(clock.wall_s())
    if memory is not None:
        opening = memory_place(invite, identity, memory, clock)
    else:
        heard = book.known(invite.swarm_id) if book else ()
        known = tuple(filter(invite.fits, heard))
        dialling = Dialling(listen, invite.bootstrap, known, relayed=serves and listen is None)
        if dialling.relayed and not (dialling.bootstrap or known):
            raise BadInput("a node that listens nowhere needs others to dial: give --join INVITE")
        opens = dht_place if invite.directory == "dht" else zenoh_place
        opening = opens(invite, identity, dialling, clock)
    with _lone_errors():
        async with opening as place:
            snapshot = await place.directory.snapshot()
            _check_protocol(snapshot)
            async with (
                place.transport as transport,
                Switchboard(
                    transport, identity, invite.membership_key, on_message, on_lost
                ) as switchboard,
                _remembering(book, invite.swarm_id, snapshot, place.directory),
            ):
                try:
                    yield Member(identity.node_id, switchboard, place, place.with_addresses(invite))
                finally:
                    await place.directory.withdraw()


@contextmanager
def _lone_errors() -> Generator[None]:
    """Task groups wrap whatever passes them: a single error comes out as itself."""
    try:
        yield
    except BaseExceptionGroup as group:
        lone = _lone(group)
        if lone is None:
            raise
        raise lone from None


def _lone(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """The only error in this group and the groups within it."""
    leaves: list[BaseException] = []

    def keep(error: BaseException) -> bool:
        if not isinstance(error, BaseExceptionGroup):
            leaves.append(error)
        return False

    group.subgroup(keep)
    return leaves[0] if len(leaves) == 1 else None


def _check_protocol(snapshot: Snapshot) -> None:
    """Raise ProtocolMismatch if all who are here speak another version than we do."""
    if snapshot.foreign and not snapshot.records:
        other = min(snapshot.foreign.values(), key=lambda other: other.node)
        raise ProtocolMismatch(
            f"the swarm speaks protocol {other.protocol} (node {other.name}, {short(other.node)}),"
            f" this shardline speaks protocol {PROTOCOL}: use the same version on both"
        )


@asynccontextmanager
async def _remembering(
    book: AddressBook | None, swarm_id: str, snapshot: Snapshot, directory: Directory
) -> AsyncGenerator[None]:
    """Write down where the others can be dialled: now, every minute, and when we leave.

    Who has just joined may have heard of one node only.
    """
    if book is None:
        yield
        return

    async def remember() -> None:
        while True:
            await asyncio.sleep(REMEMBER_EVERY_S)
            await asyncio.to_thread(_write_down, book, swarm_id, await directory.snapshot())

    await asyncio.to_thread(_write_down, book, swarm_id, snapshot)
    async with asyncio.TaskGroup() as tasks:
        remembering = tasks.create_task(remember())
        try:
            yield
        finally:
            remembering.cancel()
            await asyncio.to_thread(_write_down, book, swarm_id, await directory.snapshot())


def _write_down(book: AddressBook, swarm_id: str, snapshot: Snapshot) -> None:
    """Each node's best address first, then each one's second, so that a full book knows many."""
    nodes = sorted(snapshot.records)
    ranks = zip_longest(*(snapshot.records[node].addresses for node in nodes))
    try:
        book.hear(swarm_id, [address for rank in ranks for address in rank if address])
    except BadInput as error:  # a full disk is no reason to stop
        _log.warning("%s", error)
