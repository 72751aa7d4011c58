"""The most even split of work, against a linear program that knows nothing of runs of blocks."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shardline.swarm.capacity import levels, with_node, work_within

optimize: Any = import_module("scipy.optimize")

Node = tuple[int, int, float]


@st.composite
def swarms(draw: st.DrawFn) -> tuple[int, list[Node]]:
    """A model's blocks, and nodes: first block, last one's next, rate."""
    blocks = draw(st.integers(1, 8))
    nodes: list[Node] = []
    for _ in range(draw(st.integers(0, 7))):
        start = draw(st.integers(0, blocks - 1))
        stop = draw(st.integers(start + 1, blocks))
        nodes.append((start, stop, draw(st.sampled_from([0.5, 3.0, 10.0, 77.7]))))
    return blocks, nodes


def _levels(nodes: list[Node], blocks: int) -> np.ndarray:
    starts, stops, rates = ([node[part] for node in nodes] for part in range(3))
    return levels(work_within([*map(int, starts)], [*map(int, stops)], rates, blocks))


def _most(nodes: list[Node], blocks: int) -> float:
    """The largest throughput that every block can get: each node's rate split over its blocks."""
    pieces = [(row, block) for row, node in enumerate(nodes) for block in range(node[0], node[1])]
    sums = np.zeros((blocks + len(nodes), len(pieces) + 1))
    for column, (row, block) in enumerate(pieces):
        sums[block, column], sums[blocks + row, column] = -1.0, 1.0
    sums[:blocks, -1] = 1.0
    limits = [*[0.0] * blocks, *(node[2] for node in nodes)]
    found = optimize.linprog([*[0.0] * len(pieces), -1.0], A_ub=sums, b_ub=limits, method="highs")
    return -float(found.fun)


@given(swarms())
def test_the_least_block_gets_the_most_that_any_split_gives_it(
    swarm: tuple[int, list[Node]],
) -> None:
    blocks, nodes = swarm
    found = _levels(nodes, blocks)
    assert np.isclose(found.sum(), sum(node[2] for node in nodes))
    assert np.isclose(found.min(), _most(nodes, blocks), atol=1e-6)


@given(swarms(), st.data())
def test_more_blocks_on_a_node_never_lower_what_the_least_gets(
    swarm: tuple[int, list[Node]], data: st.DataObject
) -> None:
    blocks, nodes = swarm
    wider = [
        (data.draw(st.integers(0, start)), data.draw(st.integers(stop, blocks)), rate)
        for start, stop, rate in nodes
    ]
    assert _levels(wider, blocks).min() >= _levels(nodes, blocks).min() - 1e-9


@given(swarms())
def test_a_node_can_be_added_and_taken_away(swarm: tuple[int, list[Node]]) -> None:
    blocks, nodes = swarm
    work = work_within([], [], [], blocks)
    for start, stop, rate in nodes:
        work = with_node(work, start, stop, rate)
    assert np.allclose(levels(work), _levels(nodes, blocks))
    for start, stop, rate in nodes:
        work = with_node(work, start, stop, -rate)
    assert np.allclose(work, 0.0)


def test_a_node_works_where_others_cannot() -> None:
    nodes = [(0, 2, 10.0), (0, 4, 10.0)]
    assert _levels(nodes, 4).tolist() == [5.0, 5.0, 5.0, 5.0]
    assert _levels([(0, 2, 30.0), *nodes[1:]], 4).tolist() == [15.0, 15.0, 5.0, 5.0]
    assert _levels(nodes[:1], 4).tolist() == [5.0, 5.0, 0.0, 0.0]
