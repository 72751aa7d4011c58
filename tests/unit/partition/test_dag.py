"""A graph of ops as data, and what a placing of it costs."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.core.errors import BadInput
from shardline.partition import (
    GRAPHS,
    Block,
    GraphProblem,
    Node,
    Problem,
    Share,
    evaluate,
    evaluate_graph,
    make_graph,
    stage_order,
)
from tests.unit.partition.test_exact import problems

GB = 10**9
DIAMOND = ((0, 1), (0, 2), (1, 3), (2, 3))


def four(edges: tuple[tuple[int, int], ...] = DIAMOND, nodes: int = 3) -> GraphProblem:
    """Four ops of 10 ms; 1 MB takes 1 ms on every link, and 5 ms of delay."""
    op = Block(work_s=0.01, parameter_bytes=GB, output_bytes=10**6)
    size = nodes + 1
    problem = Problem(
        blocks=(op,) * 4,
        nodes=tuple(Node(name, 4 * GB) for name in "abcd"[:nodes]),
        delay_s=np.full((size, size), 0.005),
        bytes_per_s=np.full((size, size), 1e9),
        input_bytes=10**6,
    )
    return GraphProblem(problem, edges)


@settings(max_examples=40)
@given(problems(), st.randoms(use_true_random=False), st.data())
def test_a_chain_given_as_a_graph_has_the_chains_figures(
    problem: Problem, rng: np.random.Generator, data: st.DataObject
) -> None:
    blocks, nodes = len(problem.blocks), len(problem.nodes)
    stages = data.draw(st.integers(1, min(blocks, nodes)))
    inner = sorted(data.draw(st.permutations(range(1, blocks)))[: stages - 1])
    order = list(range(nodes))
    rng.shuffle(order)
    cuts = [0, *inner, blocks]
    chain = [Share(order[at], cuts[at], cuts[at + 1]) for at in range(stages)]
    placing = [share.node for share in chain for _ in range(share.start, share.stop)]
    graph = GraphProblem.of_chain(problem)
    found, expected = evaluate_graph(graph, placing), evaluate(problem, chain)
    assert stage_order(graph, placing) == [share.node for share in chain]
    assert found.stage_s == pytest.approx(expected.stage_s)
    assert found.bottleneck_s == pytest.approx(expected.bottleneck_s)
    assert found.latency_s == pytest.approx(expected.latency_s)


def test_a_tensor_is_sent_once_to_a_node_however_many_ops_read_it_there() -> None:
    figures = evaluate_graph(four(((0, 1), (0, 2), (0, 3))), [0, 1, 1, 1])
    assert figures.out_s[0] == pytest.approx(0.001)
    assert figures.in_s[1] == pytest.approx(0.001)


def test_a_tensor_is_sent_to_each_node_that_reads_it() -> None:
    figures = evaluate_graph(four(((0, 1), (0, 2), (0, 3))), [0, 1, 2, 0])
    assert figures.out_s[0] == pytest.approx(0.003)  # two readers, and the caller


def test_branches_on_two_nodes_run_side_by_side() -> None:
    figures = evaluate_graph(four(), [0, 0, 1, 2])
    # To 0, its two ops, to 1 or straight to 2, on to 2, its op, and back.
    assert figures.latency_s == pytest.approx(0.006 + 0.02 + 0.006 + 0.01 + 0.006 + 0.01 + 0.006)
    beside = evaluate_graph(four(nodes=4), [0, 1, 2, 3])
    assert beside.latency_s == pytest.approx(0.006 + 0.01 + 0.006 + 0.01 + 0.006 + 0.01 + 0.006)


def test_the_caller_sends_its_input_to_every_node_that_reads_it_and_gets_all_outputs() -> None:
    figures = evaluate_graph(four(()), [0, 0, 1, 1])
    assert figures.in_s == pytest.approx([0.001, 0.001])
    assert figures.out_s == pytest.approx([0.002, 0.002])


def test_what_does_not_fit_is_streamed_or_forbidden() -> None:
    graph = four()
    small = replace(graph.problem.nodes[0], memory_bytes=2 * GB)
    nodes = (small, *graph.problem.nodes[1:])
    tight = GraphProblem(replace(graph.problem, nodes=nodes), graph.edges)
    assert evaluate_graph(tight, [0] * 4).bottleneck_s == inf
    nodes = (replace(small, stream_bytes_per_s=10e9), *nodes[1:])
    streaming = GraphProblem(replace(graph.problem, nodes=nodes), graph.edges)
    assert evaluate_graph(streaming, [0] * 4).overflow_s == pytest.approx([0.2])


def test_nodes_that_would_wait_for_each_other_are_no_plan() -> None:
    with pytest.raises(ValueError, match="wait for each other"):
        evaluate_graph(four(), [0, 1, 0, 0])
    with pytest.raises(ValueError, match="wait for each other"):
        evaluate_graph(four(((0, 1), (1, 2))), [0, 1, 0, 2])


@pytest.mark.parametrize("placing", [[0, 0, 0], [0, 0, 0, 3], [0, 0, 0, -1]])
def test_ops_without_a_node_are_no_plan(placing: list[int]) -> None:
    with pytest.raises(ValueError, match="do not place 4 ops"):
        evaluate_graph(four(), placing)


@pytest.mark.parametrize("edge", [(1, 0), (2, 2), (0, 4), (-1, 2)])
def test_an_edge_that_leads_back_or_nowhere_is_one_line(edge: tuple[int, int]) -> None:
    with pytest.raises(BadInput, match="ops are 0 to 3") as caught:
        four((edge,))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", GRAPHS)
def test_made_up_graphs_are_the_same_for_the_same_seed_and_of_the_size_asked(kind: str) -> None:
    for ops in (1, 2, 7, 30):
        one, same, other = (make_graph(kind, ops, 3, seed) for seed in (1, 1, 2))
        assert one.edges == same.edges
        assert one.problem.blocks == same.problem.blocks != other.problem.blocks
        assert len(one.readers) == ops
        reached = list(accumulate(one.producers, lambda _, row: bool(row), initial=True))
        assert all(reached[2:])  # only the first op reads the caller's input
