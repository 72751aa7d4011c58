"""Being a member: engine, transport, switchboard and directory, opened together and in order."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from shardline.core.clock import SystemClock
from shardline.core.errors import ProtocolMismatch
from shardline.core.ids import PROTOCOL, short
from shardline.swarm.certificates import issue_tls
from shardline.swarm.directories.memory import MemoryBoard, MemoryDirectory
from shardline.swarm.directories.zenoh import ZenohDirectory
from shardline.wire import (
    MemoryNetwork,
    Switchboard,
    ZenohSettings,
    ZenohTransport,
    open_zenoh,
    split_address,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from shardline.core.clock import Clock
    from shardline.core.errors import ShardlineError
    from shardline.core.ids import NodeId
    from shardline.core.signer import Signer
    from shardline.swarm.directory import Directory, Snapshot
    from shardline.swarm.invite import Invite
    from shardline.wire import Message, Transport

    OnMessage = Callable[[NodeId, Message, list[memoryview]], None]
    OnLost = Callable[[NodeId, ShardlineError], None]

__all__ = ["Member", "MemoryBacking", "membership"]

_WILDCARDS: Final = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound


@dataclass(frozen=True, slots=True)
class Member:
    """One process's place in a swarm."""

    node_id: NodeId
    directory: Directory
    switchboard: Switchboard
    listening: tuple[str, ...]
    """HOST:PORT with real ports; empty for who only dials."""
    invite: Invite
    """The invite with our own addresses in it, as far as others can use them: one that listens
    on all interfaces has to be told which address others see."""


class MemoryBacking:
    """What members in one event loop share instead of an engine; swarms stay apart in it."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self._boards: dict[str, MemoryBoard] = {}

    def board(self, prefix: str) -> MemoryBoard:
        """The board of the swarm with this prefix."""
        return self._boards.setdefault(prefix, MemoryBoard())


@dataclass(frozen=True, slots=True)
class _Place:
    """What the engine gives."""

    transport: Transport
    directory: Directory
    listening: tuple[str, ...] = ()


@asynccontextmanager
async def membership(  # noqa: PLR0913 - who, where, whom to tell; then twins for tests
    invite: Invite,
    identity: Signer,
    *,
    listen: str | None,
    on_message: OnMessage,
    on_lost: OnLost | None = None,
    memory: MemoryBacking | None = None,
    clock: Clock | None = None,
) -> AsyncGenerator[Member]:
    """Be a member of this invite's swarm; with `memory`, of one that lives in this process.

    `listen` is HOST:PORT, port 0 for any free one, None to dial out only. For `on_message` and
    `on_lost` see Switchboard. Members are seen by others once they publish a record; leaving the
    context withdraws it. Raises InviteExpired, ForeignInvite, ProtocolMismatch, AddressTaken,
    BadInput for what is no address, or NodeLost if none of the invite's addresses answers.
    """
    clock = clock or SystemClock()
    invite.check_expiry(clock.wall_s())
    if memory is None:
        opening = _zenoh_place(invite, identity, listen, clock)
    else:
        opening = _memory_place(invite, identity, memory, clock)
    with _lone_errors():
        async with opening as place:
            _check_protocol(await place.directory.snapshot())
            async with (
                place.transport as transport,
                Switchboard(
                    transport, identity, invite.membership_key, on_message, on_lost
                ) as switchboard,
            ):
                try:
                    yield Member(
                        identity.node_id,
                        place.directory,
                        switchboard,
                        place.listening,
                        _with_addresses(invite, place.listening),
                    )
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


@asynccontextmanager
async def _zenoh_place(
    invite: Invite, identity: Signer, listen: str | None, clock: Clock
) -> AsyncGenerator[_Place]:
    tls = issue_tls(invite, clock=clock)
    settings = ZenohSettings(listen=listen, connect=invite.bootstrap, tls=tls)
    async with open_zenoh(settings) as engine:
        transport = ZenohTransport(engine, invite.prefix, identity.node_id)
        directory = ZenohDirectory(engine.session, invite.prefix, identity, clock)
        yield _Place(transport, directory, engine.listening)


@asynccontextmanager
async def _memory_place(
    invite: Invite, identity: Signer, memory: MemoryBacking, clock: Clock
) -> AsyncGenerator[_Place]:
    transport = memory.network.endpoint(identity.node_id)
    yield _Place(transport, MemoryDirectory(memory.board(invite.prefix), identity, clock))


def _check_protocol(snapshot: Snapshot) -> None:
    """Raise ProtocolMismatch if all who are here speak another version than we do."""
    if snapshot.foreign and not snapshot.records:
        other = min(snapshot.foreign.values(), key=lambda other: other.node)
        raise ProtocolMismatch(
            f"the swarm speaks protocol {other.protocol} (node {other.name}, {short(other.node)}),"
            f" this shardline speaks protocol {PROTOCOL}: use the same version on both"
        )


def _with_addresses(invite: Invite, listening: tuple[str, ...]) -> Invite:
    for address in listening:
        if split_address(address)[0] not in _WILDCARDS:
            invite = invite.with_bootstrap(address)
    return invite
