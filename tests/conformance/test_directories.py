"""Every Directory keeps these promises, and bears these mischiefs."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec
import pytest

from shardline.core.ids import PROTOCOL, NodeId
from shardline.swarm import (
    CLOCK_SKEW_S,
    Changed,
    Directory,
    Event,
    Foreign,
    Identity,
    Joined,
    Left,
    NodeRecord,
    State,
    sign,
)
from shardline.swarm.records import RECORD_BYTES_MAX
from tests.conformance.directories import ENGINES, World
from tests.unit.swarm.making import HandClock, record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:path is deprecated:DeprecationWarning"),  # hivemind's
]

DEADLINE_S = 10.0
A, B, C = (Identity.ephemeral() for _ in range(3))


@pytest.fixture(params=ENGINES)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with ENGINES[request.param]() as world:
        yield world


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def a(world: World, clock: HandClock) -> Directory:
    return world.open(0, A, clock)


@pytest.fixture
def b(world: World, clock: HandClock) -> Directory:
    return world.open(1, B, clock)


async def _until(
    directory: Directory, holds: Callable[[dict[NodeId, NodeRecord]], bool]
) -> dict[NodeId, NodeRecord]:
    """The first snapshot for which this holds; engines may take a moment to tell all members."""
    async with asyncio.timeout(DEADLINE_S):
        while not holds(records := dict((await directory.snapshot()).records)):
            pass
        return records


async def _next(events: AsyncIterator[Event]) -> Event:
    async with asyncio.timeout(DEADLINE_S):
        return await anext(events)


async def test_an_empty_swarm_has_an_empty_snapshot(a: Directory) -> None:
    snapshot = await a.snapshot()
    assert (dict(snapshot.records), dict(snapshot.foreign)) == ({}, {})


async def test_what_one_member_publishes_all_see(a: Directory, b: Directory) -> None:
    mine = record(A.node_id)
    await a.publish(mine)
    assert await _until(b, bool) == {A.node_id: mine}
    assert await _until(a, bool) == {A.node_id: mine}


async def test_every_member_has_one_record(a: Directory, b: Directory) -> None:
    await a.publish(record(A.node_id))
    await b.publish(record(B.node_id, 4, 8))
    both = {A.node_id, B.node_id}
    for directory in (a, b):
        assert set(await _until(directory, lambda records: len(records) == 2)) == both


async def test_a_new_record_replaces_the_old_one(a: Directory, b: Directory) -> None:
    await a.publish(record(A.node_id, state=State.LOADING))
    await a.publish(record(A.node_id, sequence=2))
    records = await _until(b, bool)
    assert records[A.node_id].state is State.READY


async def test_a_withdrawn_record_is_gone_and_can_come_back(
    world: World, a: Directory, b: Directory
) -> None:
    await a.withdraw()
    await a.publish(record(A.node_id))
    await _until(b, bool)
    await a.withdraw()
    async with asyncio.timeout(world.departure_s):
        await _until(b, lambda records: not records)
    await a.publish(record(A.node_id, sequence=2))
    await _until(b, bool)


async def test_a_killed_member_is_gone(world: World, a: Directory, b: Directory) -> None:
    await b.publish(record(B.node_id))
    await _until(a, bool)
    await world.kill(1)
    async with asyncio.timeout(world.departure_s):
        await _until(a, lambda records: not records)


async def test_an_expired_record_is_gone(a: Directory, b: Directory, clock: HandClock) -> None:
    mine = record(A.node_id)
    await a.publish(mine)
    clock.now_s = mine.expires_at_s + CLOCK_SKEW_S - 1
    await _until(b, bool)
    clock.now_s += 1
    assert not (await b.snapshot()).records


async def test_a_record_from_the_future_is_not_believed(
    a: Directory, b: Directory, clock: HandClock
) -> None:
    await a.publish(record(A.node_id))
    await _until(b, bool)
    clock.now_s -= CLOCK_SKEW_S + 1
    assert not (await b.snapshot()).records


async def test_nobody_publishes_for_another_node(a: Directory) -> None:
    with pytest.raises(ValueError, match="its own"):
        await a.publish(record(B.node_id))
    assert not (await a.snapshot()).records


def _mischief(name: str) -> bytes:
    """Bytes that a member serves in the place of C's record."""
    true = sign(record(C.node_id), C)
    payload, signature = msgspec.msgpack.decode(true)
    return {
        "garbage": b"\xc1garbage",
        "nothing": b"",
        "oversized": bytes(RECORD_BYTES_MAX + 1),
        "changed": msgspec.msgpack.encode((payload.replace(b"attic", b"cella"), signature)),
        "signed by another": msgspec.msgpack.encode((payload, B.sign(payload))),
        "another node's": sign(record(B.node_id), B),
    }[name]


MISCHIEFS = ("garbage", "nothing", "oversized", "changed", "signed by another", "another node's")


@pytest.mark.parametrize("mischief", MISCHIEFS)
async def test_mischief_is_not_shown_and_harms_nobody(
    world: World, a: Directory, b: Directory, mischief: str
) -> None:
    await world.plant(2, C.node_id, _mischief(mischief))
    await a.publish(record(A.node_id))
    async with b.watch() as events:
        assert set(await _until(b, bool)) == {A.node_id}
        event = await _next(events)
        assert isinstance(event, Joined)
        assert event.record.node == A.node_id


@pytest.mark.parametrize("mischief", MISCHIEFS)
async def test_mischief_does_not_hide_the_true_record(
    world: World, a: Directory, clock: HandClock, mischief: str
) -> None:
    await world.plant(1, C.node_id, _mischief(mischief))
    await world.open(2, C, clock).publish(record(C.node_id))
    assert set(await _until(a, bool)) == {C.node_id}


async def test_an_old_record_played_again_does_not_replace_a_new_one(
    world: World, a: Directory, clock: HandClock
) -> None:
    old = record(C.node_id, state=State.LOADING)
    await world.open(2, C, clock).publish(record(C.node_id, sequence=2))
    await _until(a, bool)
    async with a.watch() as events:
        assert isinstance(await _next(events), Joined)
        await world.plant(1, C.node_id, sign(old, C))
        await world.open(1, B, clock).publish(record(B.node_id))
        event = await _next(events)
        assert event.record.node == B.node_id
    assert (await _until(a, bool))[C.node_id].sequence == 2


async def test_what_is_refused_is_logged_once(
    world: World, a: Directory, caplog: pytest.LogCaptureFixture
) -> None:
    await world.plant(1, C.node_id, b"garbage")
    with caplog.at_level(logging.WARNING, "shardline.swarm"):
        async with asyncio.timeout(DEADLINE_S):
            while not caplog.messages:
                await a.snapshot()
        await a.snapshot()
        async with a.watch():
            await a.snapshot()
    assert len(caplog.messages) == 1
    assert C.node_id[:8] in caplog.messages[0]


async def test_a_node_of_another_protocol_version_is_named(world: World, a: Directory) -> None:
    payload = msgspec.msgpack.encode(Foreign(C.node_id, "cellar", PROTOCOL + 1))
    signature = C.sign(b"shardline/record\x00" + payload)
    await world.plant(1, C.node_id, msgspec.msgpack.encode((payload, signature)))
    snapshot = await a.snapshot()
    async with asyncio.timeout(DEADLINE_S):
        while not snapshot.foreign:
            snapshot = await a.snapshot()
    assert dict(snapshot.foreign) == {C.node_id: Foreign(C.node_id, "cellar", PROTOCOL + 1)}
    assert not snapshot.records


async def test_a_watcher_hears_who_is_here_who_joins_changes_and_leaves(
    a: Directory, b: Directory
) -> None:
    await a.publish(record(A.node_id))
    async with b.watch() as events:
        assert await _next(events) == Joined(record(A.node_id))
        await b.publish(record(B.node_id))
        assert await _next(events) == Joined(record(B.node_id))
        await a.publish(record(A.node_id, sequence=2))
        assert await _next(events) == Changed(record(A.node_id, sequence=2))
        await a.withdraw()
        assert await _next(events) == Left(record(A.node_id, sequence=2))
        await a.publish(record(A.node_id, sequence=3))
        assert await _next(events) == Joined(record(A.node_id, sequence=3))


async def test_a_watcher_hears_of_a_death(world: World, a: Directory, b: Directory) -> None:
    await b.publish(record(B.node_id))
    async with a.watch() as events:
        await _next(events)
        await world.kill(1)
        async with asyncio.timeout(world.departure_s):
            assert await _next(events) == Left(record(B.node_id))


async def test_a_watcher_hears_of_an_expiry(a: Directory, b: Directory, clock: HandClock) -> None:
    mine = record(A.node_id)
    await a.publish(mine)
    async with b.watch() as events:
        assert await _next(events) == Joined(mine)
        clock.now_s = mine.expires_at_s + CLOCK_SKEW_S
        assert await _next(events) == Left(mine)


async def test_a_slow_watcher_hears_the_last_state(a: Directory, b: Directory) -> None:
    async with b.watch() as events:
        for sequence in range(1, 101):
            await a.publish(record(A.node_id, sequence=sequence))
        heard = [await _next(events)]
        while heard[-1].record.sequence < 100:
            heard.append(await _next(events))
        assert isinstance(heard[0], Joined)
        sequences = [event.record.sequence for event in heard]
        assert sequences == sorted(set(sequences))


async def test_a_restarted_node_is_one_node(world: World, a: Directory, clock: HandClock) -> None:
    await world.open(1, C, clock).publish(record(C.node_id))
    async with a.watch() as events:
        assert isinstance(await _next(events), Joined)
        await world.open(2, C, clock).publish(record(C.node_id, sequence=2))
        assert await _next(events) == Changed(record(C.node_id, sequence=2))
    assert set(await _until(a, bool)) == {C.node_id}
