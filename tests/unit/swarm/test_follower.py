"""Notes on their way to a standby: in order, each once, and nobody waits."""

import asyncio

import pytest

from shardline.core.errors import JournalLost, NodeLost
from shardline.core.ids import NodeId, Seat, SessionId
from shardline.swarm import Entry, Follower, Journals

pytestmark = pytest.mark.anyio

SEAT = Seat(SessionId("1" * 32), 0)
TO = NodeId("a" * 64)
DEADLINE_S = 10.0


class Way:
    """To the standby; it may be closed."""

    def __init__(self) -> None:
        self.got: list[int] = []
        self.open = asyncio.Event()
        self.open.set()
        self.heard = asyncio.Event()

    async def send(self, to: NodeId, entry: Entry) -> None:
        assert to == TO
        await self.open.wait()
        self.got.append(entry.step)
        self.heard.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while len(self.got) < count:
                self.heard.clear()
                await self.heard.wait()


async def test_it_sends_what_is_noted_and_then_what_comes() -> None:
    journals, way = Journals(10_000), Way()
    follower = Follower(journals, SEAT, TO, way.send)
    journals.add(SEAT, 0, [b"x"])
    running = asyncio.create_task(follower.run())
    await way.until(1)
    journals.add(SEAT, 1, [b"x"])
    follower.more()
    await way.until(2)
    follower.stop()
    await running
    assert (way.got, follower.has) == ([0, 1], 2)


async def test_one_that_is_stopped_while_it_waits_has_not_sent() -> None:
    journals, way = Journals(10_000), Way()
    way.open.clear()
    journals.add(SEAT, 0, [b"x"])
    follower = Follower(journals, SEAT, TO, way.send)
    running = asyncio.create_task(follower.run())
    await asyncio.sleep(0)
    follower.stop()
    await running
    assert (way.got, follower.has) == ([], 0)


async def test_one_that_falls_behind_the_notes_ends() -> None:
    journals, way = Journals(600), Way()
    for step in range(5):
        journals.add(SEAT, step, [b"x"])
    with pytest.raises(JournalLost):
        await Follower(journals, SEAT, TO, way.send).run()


async def test_a_standby_that_takes_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardline.swarm.follower.AHEAD_S", 0.01)
    journals, way = Journals(10_000), Way()
    way.open.clear()
    journals.add(SEAT, 0, [b"x"])
    with pytest.raises(NodeLost, match="standby aaaaaaaa took no step"):
        await Follower(journals, SEAT, TO, way.send).run()
