from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from shardline.core.clock import SystemClock
from shardline.core.errors import (
    AddressTaken,
    ForeignInvite,
    InviteExpired,
    NodeLost,
    NotCovered,
    ProtocolMismatch,
    ShardlineError,
)
from shardline.core.ids import PROTOCOL, NodeId, new_session_id
from shardline.swarm import (
    AddressBook,
    Identity,
    Invite,
    Joined,
    Left,
    Member,
    MemoryBacking,
    membership,
    renew,
)
from shardline.wire import Close, Message
from tests.unit.swarm.making import NOW_S, HandClock, record

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

pytestmark = pytest.mark.anyio

DEADLINE_S = 20.0
HERE = "127.0.0.1:0"


class Mail:
    """What a member was told."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[tuple[NodeId, Message, list[bytes]]] = asyncio.Queue()
        self.losses: asyncio.Queue[NodeId] = asyncio.Queue()

    def on_message(self, peer: NodeId, message: Message, segments: list[memoryview]) -> None:
        self.messages.put_nowait((peer, message, [bytes(segment) for segment in segments]))

    def on_lost(self, peer: NodeId, error: ShardlineError) -> None:
        assert str(error)
        self.losses.put_nowait(peer)


@pytest.fixture(params=["memory", "zenoh"])
def memory(request: pytest.FixtureRequest) -> MemoryBacking | None:
    return MemoryBacking() if request.param == "memory" else None


@asynccontextmanager
async def _member(
    invite: Invite,
    memory: MemoryBacking | None,
    *,
    identity: Identity | None = None,
    listen: str | None = HERE,
    mail: Mail | None = None,
) -> AsyncGenerator[Member]:
    identity, mail = identity or Identity.ephemeral(), mail or Mail()
    joining = membership(
        invite,
        identity,
        listen=listen,
        on_message=mail.on_message,
        on_lost=mail.on_lost,
        memory=memory,
    )
    async with joining as member:
        yield member


async def _publish(member: Member, start: int, stop: int, protocol: int = PROTOCOL) -> None:
    mine = record(member.node_id, start, stop, name="cellar", protocol=protocol)
    await member.directory.publish(renew(mine, now_s=SystemClock().wall_s(), life_s=60))


async def test_members_find_each_other_and_speak(memory: MemoryBacking | None) -> None:
    mail = Mail()
    async with asyncio.timeout(DEADLINE_S), _member(Invite.new(), memory, mail=mail) as first:
        await _publish(first, 0, 4)
        async with _member(first.invite, memory, listen=None) as second:
            async with second.directory.watch() as events:
                event = await anext(events)
                assert isinstance(event, Joined)
                assert event.record.node == first.node_id
            message = Close(session=new_session_id())
            await second.switchboard.send(first.node_id, message, [b"tensor"])
            assert await mail.messages.get() == (second.node_id, message, [b"tensor"])
            assert await second.switchboard.ping(first.node_id) > 0
        assert await mail.losses.get() == second.node_id


async def test_who_leaves_is_gone_from_the_directory(memory: MemoryBacking | None) -> None:
    async with asyncio.timeout(DEADLINE_S), _member(Invite.new(), memory) as first:
        async with first.directory.watch() as events:
            async with _member(first.invite, memory) as second:
                await _publish(second, 4, 8)
                assert isinstance(await anext(events), Joined)
            assert isinstance(await anext(events), Left)
        assert not (await first.directory.snapshot()).records


async def test_an_error_inside_comes_out_as_itself(memory: MemoryBacking | None) -> None:
    with pytest.raises(NotCovered, match="blocks 0:8"):
        async with _member(Invite.new(), memory):
            raise NotCovered("no live node holds blocks 0:8")


async def test_an_expired_invite_opens_nothing(memory: MemoryBacking | None) -> None:
    invite = Invite.new((), 60, clock=HandClock(NOW_S - 10**9))
    with pytest.raises(InviteExpired):
        async with _member(invite, memory):
            pass


async def test_a_swarm_of_another_protocol_version_is_named(memory: MemoryBacking | None) -> None:
    async with asyncio.timeout(DEADLINE_S), _member(Invite.new(), memory) as first:
        await _publish(first, 0, 8, PROTOCOL + 1)
        with pytest.raises(ProtocolMismatch) as caught:
            async with _member(first.invite, memory):
                pass
        assert f"protocol {PROTOCOL + 1} (node cellar" in str(caught.value)
        assert f"speaks protocol {PROTOCOL}:" in str(caught.value)


async def test_one_node_of_another_version_among_ours_is_borne(
    memory: MemoryBacking | None,
) -> None:
    async with (
        asyncio.timeout(DEADLINE_S),
        _member(Invite.new(), memory) as first,
        _member(first.invite, memory) as later,
    ):
        await _publish(later, 0, 8, PROTOCOL + 1)
        await _publish(first, 0, 8)
        async with _member(first.invite, memory) as third:
            assert set((await third.directory.snapshot()).foreign) == {later.node_id}


async def test_the_members_invite_has_its_address_with_the_real_port() -> None:
    async with _member(Invite.new(), None) as member:
        assert member.listening == member.invite.bootstrap
        assert not member.invite.bootstrap[0].endswith(":0")
    async with _member(Invite.new(), None, listen="0.0.0.0:0") as member:
        assert member.listening
        assert member.invite.bootstrap == ()


async def test_on_a_taken_port_one_line_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AddressTaken, match=listen):
            async with _member(Invite.new(), None, listen=listen):
                pass


async def test_a_foreign_or_edited_invite_is_told_from_a_dead_address() -> None:
    async def refused(invite: Invite, error: type[ShardlineError]) -> None:
        with pytest.raises(error, match=invite.bootstrap[0]):
            async with _member(invite, None, listen=None):
                pass

    async with asyncio.timeout(DEADLINE_S), _member(Invite.new((), 3600), None) as first:
        await asyncio.gather(
            refused(Invite.new(first.listening), ForeignInvite),
            refused(replace(first.invite, expires_at_s=None), ForeignInvite),
            refused(Invite.new((_free_address(),)), NodeLost),
        )


async def test_in_memory_too_a_foreign_invite_sees_nobody() -> None:
    memory = MemoryBacking()
    async with _member(Invite.new(), memory) as first:
        await _publish(first, 0, 8)
        async with _member(Invite.new(), memory) as stranger:
            assert not (await stranger.directory.snapshot()).records
            with pytest.raises(ForeignInvite):
                await stranger.switchboard.ping(first.node_id)


async def test_any_member_bootstraps_any_other_also_after_the_first_one_left() -> None:
    async with asyncio.timeout(DEADLINE_S):
        async with _member(Invite.new(), None) as first:
            second_joining = _member(first.invite, None)
            second = await second_joining.__aenter__()
        try:
            await _publish(second, 0, 8)
            async with _member(second.invite, None, listen=None) as third:
                assert set((await third.directory.snapshot()).records) == {second.node_id}
        finally:
            await second_joining.__aexit__(None, None, None)


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


async def _publish_addresses(member: Member, start: int, stop: int) -> None:
    mine = record(member.node_id, start, stop, addresses=member.place.addresses)
    await member.directory.publish(renew(mine, now_s=SystemClock().wall_s(), life_s=60))


async def test_who_heard_of_a_node_comes_in_by_it_when_the_invites_is_gone(tmp_path: Path) -> None:
    book = AddressBook(tmp_path)
    async with asyncio.timeout(DEADLINE_S), AsyncExitStack() as stack:
        first_ends = await stack.enter_async_context(AsyncExitStack())
        first = await first_ends.enter_async_context(_member(Invite.new(), None))
        invite = first.invite
        second = await stack.enter_async_context(_member(invite, None))
        await _publish_addresses(first, 0, 4)
        await _publish_addresses(second, 4, 8)
        mail = Mail()

        def join() -> AbstractAsyncContextManager[Member]:
            return membership(
                invite, Identity.ephemeral(), listen=None, on_message=mail.on_message, book=book
            )

        async with join() as caller:
            while len((await caller.directory.snapshot()).records) < 2:
                pass
        assert set(book.known(invite.swarm_id)) == {*first.listening, *second.listening}
        await first_ends.aclose()
        async with join() as caller:
            assert second.node_id in (await caller.directory.snapshot()).records


async def test_who_listens_on_all_interfaces_tells_loopback_last() -> None:
    async with asyncio.timeout(DEADLINE_S), _member(Invite.new(), None, listen="0.0.0.0:0") as all_:
        assert all_.place.addresses[-1].startswith("127.0.0.1:")
        assert not any(address.startswith("127.") for address in all_.place.addresses[:-1])
        async with _member(replace(all_.invite, bootstrap=all_.place.addresses), None, listen=None):
            pass
