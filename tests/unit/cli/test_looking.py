"""A visitor hears of the nodes one by one, and asks until all are there."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from shardline.cli import looking
from shardline.cli.looking import LOOKS, everybody
from shardline.swarm import NodeRecord, Snapshot
from tests.unit.swarm.making import node_id, record

if TYPE_CHECKING:
    from shardline.swarm import Member

ONE, TWO = record(1, links={node_id(2): 1.0}), record(2)

pytestmark = pytest.mark.anyio


class Slow:
    """A member and its directory, which shows these records, one snapshot after the other."""

    def __init__(self, *shown: list[NodeRecord]) -> None:
        self.directory = self
        self.looks = 0
        self._shown = shown

    async def snapshot(self) -> Snapshot:
        seen = self._shown[min(self.looks, len(self._shown) - 1)]
        self.looks += 1
        return Snapshot({one.node: one for one in seen}, {})


async def found(slow: Slow) -> set[str]:
    return set(await everybody(cast("Member", slow)))


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "LOOK_S", 0.0)


async def test_a_visitor_asks_again_for_those_whom_others_have_measured() -> None:
    slow = Slow([], [ONE], [TWO])
    assert await found(slow) == {node_id(1), node_id(2)}
    assert slow.looks == 3


async def test_a_swarm_whose_nodes_all_answer_is_asked_once() -> None:
    slow = Slow([ONE, TWO])
    assert await found(slow) == {node_id(1), node_id(2)}
    assert slow.looks == 1


async def test_a_node_that_never_shows_is_not_waited_for_for_ever() -> None:
    for shown, nodes in (([ONE], {node_id(1)}), ([], set[str]())):
        slow = Slow(shown)
        assert await found(slow) == nodes
        assert slow.looks == LOOKS
