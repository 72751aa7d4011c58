"""Steps of many sessions at once: which are begun, which are over, and what is closed after."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from anyio.from_thread import start_blocking_portal
from transformers import Cache, DynamicCache

from shardline.client.runner import Runner
from shardline.client.sessions import Sessions
from shardline.codec import encoder
from shardline.core.errors import CacheFull, NodeLost, ShardlineError
from shardline.model import Call, Crossing

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from shardline.client.session import RemoteSession

DEADLINE_S = 60.0
COUNT = 3


@dataclass
class Chain:
    """Sessions that are numbered as they begin; some are given no seats, some steps fail."""

    full: set[int] = field(default_factory=set[int])
    lost: set[int] = field(default_factory=set[int])
    begun: int = 0
    closed: list[int] = field(default_factory=list[int])
    over: list[int] = field(default_factory=list[int])
    """Whose steps came back."""
    on_the_way: asyncio.Barrier | None = None
    """Where all steps meet."""

    def begin(self, start: int) -> RemoteSession:
        del start
        self.begun += 1
        return cast("RemoteSession", Session(self, self.begun - 1))


@dataclass(eq=False)
class Session:
    around: Chain
    id: int
    chain: tuple[()] = ()
    standbys: tuple[()] = ()
    encoder: Any = field(default_factory=lambda: encoder("raw"))

    async def open(self, *, rows: int, tokens: int, prefix: Sequence[bytes]) -> int:
        del rows, tokens, prefix
        if self.id in self.around.full:
            raise CacheFull(f"session {self.id}")
        return 0

    async def step(self, *_: object, **__: object) -> tuple[str, list[Any]]:
        around = self.around
        if around.on_the_way is None:
            around.on_the_way = asyncio.Barrier(COUNT)
        async with asyncio.timeout(DEADLINE_S), around.on_the_way:
            if self.id in around.lost:
                raise NodeLost(f"session {self.id}")
            for _turn in range(10 * (COUNT - self.id)):  # the first is over last
                await asyncio.sleep(0)
        around.over.append(self.id)
        return f"answer {self.id}", []

    async def close(self) -> None:
        self.around.closed.append(self.id)


@dataclass
class World:
    chain: Chain
    runner: Runner

    def together(self, caches: Sequence[Cache | None]) -> list[Any]:
        crossing = Crossing(2, (torch.zeros(1, 1, 1),), (Call((), {}),), (0, 0, 0))
        return self.runner.together([(cache, crossing) for cache in caches])


@pytest.fixture
def world() -> Generator[World]:
    chain = Chain()
    with start_blocking_portal() as portal:
        yield World(chain, Runner(portal, Sessions(), begin=chain.begin, tokens=8))


def test_steps_of_many_sessions_are_on_their_way_at_once_and_keep_their_order(world: World) -> None:
    caches = [DynamicCache() for _ in range(COUNT)]
    assert world.together(caches) == ["answer 0", "answer 1", "answer 2"]
    assert world.chain.over == [2, 1, 0]
    assert len(world.runner.steps) == COUNT
    world.together(caches)
    assert world.chain.begun == COUNT, "each goes on with its own"
    assert world.chain.closed == []


def test_what_went_wrong_with_the_first_is_raised_once_all_are_over(world: World) -> None:
    world.chain.lost = {1, 2}
    with pytest.raises(NodeLost, match="session 1"):
        world.together([None] * COUNT)
    assert world.chain.over == [0]
    assert sorted(world.chain.closed) == [0, 1, 2]


def test_where_one_is_given_no_seats_none_is_stepped_and_none_stays_open(world: World) -> None:
    world.chain.full = {2}
    with pytest.raises(CacheFull):
        world.together([None] * COUNT)
    assert world.chain.over == []
    assert sorted(world.chain.closed) == [0, 1, 2]


def test_sessions_that_were_begun_for_a_cache_go_on_where_another_was_given_no_seats(
    world: World,
) -> None:
    caches = [DynamicCache() for _ in range(COUNT)]
    world.chain.full = {2}
    with pytest.raises(ShardlineError):
        world.together(caches)
    assert world.chain.closed == [2]
    assert world.together(caches) == ["answer 0", "answer 1", "answer 3"]
    world.runner.forget()
    assert sorted(world.chain.closed) == [0, 1, 2, 3]
