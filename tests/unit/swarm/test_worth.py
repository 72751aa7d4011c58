"""What a placement is worth where links count, against all chains there are."""

from __future__ import annotations

from itertools import product
from math import inf, isclose

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.swarm import Flow, NodeRecord
from shardline.swarm.sight import sight_of
from shardline.swarm.ways import WAYS_NODES_MAX, Ways, ways_of
from shardline.swarm.worth import Worth
from tests.unit.swarm.making import node_id, record


@st.composite
def placements(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]], list[float], list[float]]:
    """Blocks, spans, rates, and one-way times between all nodes."""
    blocks = draw(st.integers(1, 4))
    spans = [
        (start, draw(st.integers(start + 1, blocks)))
        for start in draw(st.lists(st.integers(0, blocks - 1), min_size=1, max_size=4))
    ]
    count = len(spans)
    rates = draw(st.lists(st.floats(1.0, 100.0), min_size=count, max_size=count))
    hops = draw(st.lists(st.floats(0.0, 1.0), min_size=count**2, max_size=count**2))
    return blocks, spans, rates, hops


def _shortest_s(
    caller: int, blocks: int, spans: list[tuple[int, int]], rates: list[float], hop_s: list[float]
) -> float:
    """Over all chains that change nodes where a span begins or ends."""
    count, best = len(spans), inf
    for chain in product(range(count), repeat=blocks):
        if not all(spans[node][0] <= block < spans[node][1] for block, node in enumerate(chain)):
            continue
        changes = [
            (block, before, node)
            for block, (before, node) in enumerate(zip((caller, *chain), chain, strict=False))
            if before != node or block == 0
        ]
        if all(not at or at in {spans[one][1], spans[other][0]} for at, one, other in changes):
            way_s = sum(hop_s[one * count + other] for _, one, other in changes)
            way_s += hop_s[chain[-1] * count + caller]
            best = min(best, way_s + sum(1 / rates[node] for node in chain))
    return best


@settings(max_examples=40)
@given(placements())
def test_a_step_takes_the_shortest_way_and_waits_for_the_slowest_block(
    placement: tuple[int, list[tuple[int, int]], list[float], list[float]],
) -> None:
    blocks, spans, rates, hops = placement
    count = len(spans)
    hop_s = np.array(hops).reshape(count, count)
    np.fill_diagonal(hop_s, 0.0)
    ways = Ways(tuple(map(node_id, range(count))), hop_s, np.full((count, count), inf), 0)
    starts, stops = (np.array(ends) for ends in zip(*spans, strict=True))
    found = Worth(ways, np.array(rates), blocks).value_s(starts, stops)
    flat: list[float] = hop_s.ravel().tolist()
    way_s = sum(_shortest_s(caller, blocks, spans, rates, flat) for caller in range(count)) / count
    if way_s == inf:
        assert found == inf
    else:
        mean = sum(rates) / blocks
        assert found >= way_s + count / mean - 1e-9
        if count == 1:
            assert isclose(found, way_s + 1 / mean)


def test_of_two_ways_with_equal_flow_the_one_with_near_neighbours_takes_less() -> None:
    near, far = {node_id(2): 2.0, node_id(3): 100.0}, {node_id(2): 100.0, node_id(3): 2.0}
    values: list[float] = []
    for links in (near, far):
        records = [record(1, 0, 4, links=links), record(2, 4, 8), record(3, 0, 4)]
        sight = sight_of([*records, record(4, 4, 8, links={node_id(3): 2.0})], 0)
        assert sight is not None
        values.append(sight.value_s())
    assert values[0] < values[1]


def test_links_that_nobody_measured_or_of_too_many_nodes_tell_nothing() -> None:
    assert ways_of([record(1), record(2)]) is None
    assert ways_of([record(1, links={node_id(7): 3.0}), record(2)]) is None
    many = [record(n, links={node_id(n + 1): 3.0}) for n in range(WAYS_NODES_MAX + 1)]
    assert ways_of(many) is None


def _linked() -> list[NodeRecord]:
    flows = (Flow(80_000, 8_000),)
    return [record(1, links={node_id(2): 10.0}, flows=flows), record(2, links={node_id(1): 10.0})]


def test_a_hop_is_half_a_round_trip_and_the_steps_bytes_where_rates_are_known() -> None:
    ways = ways_of(_linked(), step_bytes=10_000)
    assert ways is not None
    sent_s = 0.005 + 0.001
    assert np.allclose(ways.hop_s, [[0.0, sent_s + 1e-3], [sent_s + 1e-2, 0.0]])
    plain = ways_of([record(1, links={node_id(2): 10.0}), record(2)], step_bytes=10_000)
    assert plain is not None
    assert np.allclose(plain.hop_s, [[0.0, sent_s], [sent_s, 0.0]])


def test_the_order_of_records_does_not_show() -> None:
    one, other = ways_of(_linked()), ways_of(_linked()[::-1])
    assert one is not None
    assert other is not None
    assert one.nodes == other.nodes
    assert (one.hop_s == other.hop_s).all()
