"""Orders in which ops can run, and their best cuts."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.partition import GraphProblem, evaluate_graph
from shardline.partition.slicing import Machines, Parts, cut, kahn
from tests.unit.partition.test_dag_exact import graphs

INF = float("inf")


@settings(max_examples=40)
@given(graphs(), st.integers(0, 2**32))
def test_any_keys_give_an_order_in_which_producers_come_first(
    graph: GraphProblem, seed: int
) -> None:
    order = kahn(graph, np.random.default_rng(seed).random(len(graph.readers)).tolist())
    assert sorted(order) == list(range(len(graph.readers)))
    place = {op: at for at, op in enumerate(order)}
    assert all(place[one] < place[other] for one, other in graph.edges)


@settings(max_examples=40)
@given(graphs())
def test_the_table_holds_what_each_part_reads_and_writes(graph: GraphProblem) -> None:
    order = kahn(graph, [-float(op) for op in range(len(graph.readers))])
    parts, blocks = Parts.of(graph, order), graph.problem.blocks
    for start, stop in combinations(range(len(order) + 1), 2):
        inside = set(order[start:stop])
        read = {one for one, other in graph.edges if other in inside and one not in inside}
        written = {one for one, other in graph.edges if one in inside and other not in inside}
        returned = [op for op in inside if not graph.readers[op]]
        sources = any(not graph.producers[op] for op in inside)
        assert parts.read[start, stop] == sum(blocks[op].output_bytes for op in read)
        assert parts.written[start, stop] == sum(blocks[op].output_bytes for op in written)
        assert parts.returned[start, stop] == sum(blocks[op].output_bytes for op in returned)
        assert parts.given[start, stop] == graph.problem.input_bytes * sources
        assert parts.cache[start, stop] == sum(blocks[op].cache_bytes for op in inside)


@settings(max_examples=25)
@given(graphs())
def test_the_cuts_are_the_best_of_their_order_and_keep_the_quotient_acyclic(
    graph: GraphProblem,
) -> None:
    order = kahn(graph, [0.0] * len(graph.readers))
    parts, machines, count = Parts.of(graph, order), Machines(graph), len(order)
    nodes = range(len(graph.problem.nodes))
    seconds = [machines.seconds(parts, node) for node in nodes]
    best = INF
    for used in range(1, min(len(nodes), count) + 1):
        for chosen in combinations(nodes, used):
            for inner in combinations(range(1, count), used - 1):
                ends = list(zip([0, *inner], [*inner, count], chosen, strict=True))
                best = min(
                    best, max(float(seconds[node][start, stop]) for start, stop, node in ends)
                )
    placing = cut(order, parts, machines, nodes, weight=1.0)
    if placing is None:
        assert best == INF
        return
    evaluate_graph(graph, placing)  # raises for a circle
    stages = {node: [at for at, op in enumerate(order) if placing[op] == node] for node in placing}
    found = max(float(seconds[node][at[0], at[-1] + 1]) for node, at in stages.items())
    assert found == pytest.approx(best)
