"""Swarms whose directory is a DHT: one invite leads to everything."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from shardline.core.clock import SystemClock
from shardline.core.errors import AddressTaken, BadInput, NodeLost
from shardline.swarm import AddressBook, Identity, Invite, Joined, membership, renew
from shardline.swarm.directories.dht_names import peer_id
from shardline.wire import claim_address, split_address
from tests.unit.swarm.making import record

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from shardline.swarm import Member

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:path is deprecated:DeprecationWarning"),  # hivemind's
    pytest.mark.skipif(
        find_spec("hivemind") is None,
        reason="hivemind is not installed: pip install 'shardline[dht]'",
    ),
]
HERE = "127.0.0.1:0"
DEADLINE_S = 60.0


@asynccontextmanager
async def _member(
    invite: Invite,
    *,
    listen: str | None = HERE,
    identity: Identity | None = None,
    book: AddressBook | None = None,
    serves: bool = False,
) -> AsyncGenerator[Member]:
    def nothing(*_: object) -> None:
        """Nobody says anything."""

    async with membership(
        invite,
        identity or Identity.ephemeral(),
        listen=listen,
        on_message=nothing,
        book=book,
        serves=serves,
    ) as member:
        yield member


async def _publish(member: Member) -> None:
    mine = record(member.node_id, addresses=member.place.addresses)
    await member.directory.publish(renew(mine, now_s=SystemClock().wall_s(), life_s=60))


@pytest.mark.parametrize("nat", [None, "none"])
async def test_who_has_the_invite_finds_the_nodes_and_reaches_them(nat: str | None) -> None:
    if nat is not None:
        pytest.importorskip("iroh", reason="iroh is not installed: pip install 'shardline[nat]'")
    founding = Invite.new(nat=nat, directory="dht")
    async with asyncio.timeout(DEADLINE_S), _member(founding) as node:
        await _publish(node)
        assert node.invite.bootstrap == node.listening
        async with _member(Invite.parse(node.invite.encode()), listen=None) as caller:
            async with caller.directory.watch() as events:
                event = await anext(events)
                assert isinstance(event, Joined)
                assert event.record.node == node.node_id
            assert await caller.switchboard.ping(node.node_id) > 0


async def test_a_node_that_listens_nowhere_is_reached_through_another() -> None:
    founding = Invite.new(directory="dht")
    async with (
        asyncio.timeout(DEADLINE_S),
        _member(founding) as hub,
        _member(hub.invite, listen=None, serves=True) as inside,
        _member(hub.invite, listen=None) as caller,
    ):
        assert await caller.switchboard.ping(inside.node_id) > 0
        assert (inside.place.through(),) == hub.listening


async def test_an_invite_made_beforehand_names_its_founder_start_after_start(
    tmp_path: Path,
) -> None:
    address = claim_address(HERE)
    made = Invite.new((address,), directory="dht")
    book = AddressBook(tmp_path)
    for _ in range(2):
        async with asyncio.timeout(DEADLINE_S), _member(made, listen=address, book=book) as founder:
            assert founder.listening == made.bootstrap
            await _publish(founder)
            async with _member(made, book=book) as other:
                assert founder.node_id in (await other.directory.snapshot()).records
                assert peer_id(made.founder_seed) not in other.listening[0]
                await _publish(other)
    assert set(made.bootstrap) < set(book.known(made.swarm_id))


async def test_a_node_keeps_its_address() -> None:
    node, address = Identity.ephemeral(), claim_address(HERE)
    async with asyncio.timeout(DEADLINE_S), _member(Invite.new(directory="dht")) as founder:
        seen: set[tuple[str, ...]] = set()
        for _ in range(2):
            async with _member(founder.invite, listen=address, identity=node) as member:
                seen.add(member.listening)
        assert len(seen) == 1


async def test_an_invite_that_leads_nowhere_says_so() -> None:
    gone = Invite.new((claim_address(HERE),), directory="dht")
    for listen in (None, HERE):
        with pytest.raises(NodeLost, match="no answer from the DHT"):
            async with _member(gone, listen=listen):
                pass
    with pytest.raises(BadInput, match="names nobody"):
        async with _member(Invite.new(directory="dht"), listen=None):
            pass


async def test_the_port_behind_must_be_free_too() -> None:
    async with asyncio.timeout(DEADLINE_S), _member(Invite.new(directory="dht")) as first:
        _, port = split_address(first.listening[0].partition("/")[0])
        with pytest.raises(AddressTaken, match=f":{port}: the port is in use"):
            async with _member(Invite.new(directory="dht"), listen=f"127.0.0.1:{port - 1}"):
                pass
    with pytest.raises(BadInput, match="the port after 65535 too"):
        async with _member(Invite.new(directory="dht"), listen="127.0.0.1:65535"):
            pass


def test_addresses_of_other_swarms_are_no_bootstrap() -> None:
    dht, plain = Invite.new(("h:1",), directory="dht"), Invite.new(("h:1",))
    assert not dht.fits(plain.bootstrap[0])
    assert not plain.fits(dht.bootstrap[0])
    for invite, address in ((dht, "h:2"), (plain, dht.bootstrap[0])):
        with pytest.raises(BadInput, match="no address of a swarm"):
            replace(invite, bootstrap=(address,))
