"""Plans of graphs: what every method promises, and how near the bound they come."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from shardline.core.errors import BadInput
from shardline.partition import (
    GRAPH_METHODS,
    GRAPHS,
    GraphProblem,
    evaluate_graph,
    make_graph,
    plan_graph,
    stage_order,
)


@pytest.mark.parametrize("objective", ["throughput", "latency", 0.8])
@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("method", set(GRAPH_METHODS) - {"exact"})
def test_a_plan_covers_fits_and_says_what_evaluate_says(
    method: str, kind: str, objective: str | float
) -> None:
    graph = make_graph(kind, 20, 4, seed=2, family="mixed")
    found = plan_graph(graph, method, objective=objective, budget_s=0.3)
    names = [node.name for node in graph.problem.nodes]
    place = {op: names.index(part.node) for part in found.assignment for op in part.ops}
    placing = [place[op] for op in range(20)]
    figures = evaluate_graph(graph, placing)  # raises unless the quotient is acyclic
    assert [names[node] for node in stage_order(graph, placing)] == [
        part.node for part in found.assignment
    ]
    for part in found.assignment:
        held = sum(graph.problem.blocks[op].parameter_bytes for op in part.ops)
        assert held <= graph.problem.nodes[names.index(part.node)].memory_bytes
    assert found.stage_ms == pytest.approx([1e3 * stage for stage in figures.stage_s])
    weight = {"throughput": 1.0, "latency": 0.0}.get(str(objective), 0.8)
    assert found.value_ms == pytest.approx(1e3 * figures.value_s(weight))
    assert found.gap == pytest.approx(found.value_ms / found.lower_bound_ms - 1)
    assert found.gap >= 0
    assert len(found.reasons) == 4


@pytest.mark.parametrize("method", GRAPH_METHODS)
def test_the_same_seed_gives_the_same_plan(method: str) -> None:
    graph = make_graph("series-parallel", 8, 3, seed=7, family="homes")
    first, second = (plan_graph(graph, method, seed=1, budget_s=None) for _ in range(2))
    assert first.assignment == second.assignment


@pytest.mark.parametrize("kind", ["series-parallel", "transformer"])
def test_ops_on_a_lan_are_placed_close_to_the_bound(kind: str) -> None:
    assert plan_graph(make_graph(kind, 24, 4, seed=1), budget_s=2).gap < 0.15


def test_the_keys_beat_the_orders_they_start_from() -> None:
    graph = make_graph("series-parallel", 24, 5, seed=1, family="homes")
    slices, brkga, greedy = (
        plan_graph(graph, method, budget_s=None) for method in ("slices", "brkga", "greedy")
    )
    assert brkga.value_ms < slices.value_ms < greedy.value_ms


def test_a_plan_is_plain_data_with_the_promised_keys() -> None:
    data = json.loads(json.dumps(plan_graph(make_graph("layered", 6, 2)).to_json()))
    assert set(data["assignment"][0]) == {"node", "ops"}
    promised = {"method", "assignment", "stage_ms", "bottleneck_ms", "latency_ms"}
    assert promised | {"lower_bound_ms", "gap", "reasons", "seconds"} <= set(data)


@pytest.mark.parametrize("method", GRAPH_METHODS)
def test_a_graph_that_fits_nowhere_is_one_line_that_says_what_is_missing(method: str) -> None:
    graph = make_graph("transformer", 40, 3)
    nodes = tuple(replace(node, memory_bytes=10**9) for node in graph.problem.nodes)
    crowded = GraphProblem(replace(graph.problem, nodes=nodes), graph.edges)
    with pytest.raises(BadInput, match="add nodes with") as caught:
        plan_graph(crowded, method, budget_s=1)
    assert "\n" not in str(caught.value)


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadInput, match="there are auto, exact"):
        plan_graph(make_graph("layered", 3, 2), "magic")
