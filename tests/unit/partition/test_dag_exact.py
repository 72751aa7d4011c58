"""Exact equals trying everything on graphs too; bounds and searches keep to it."""

from __future__ import annotations

from itertools import product
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.core.errors import BadInput
from shardline.partition import (
    GRAPH_METHODS,
    GraphProblem,
    Problem,
    evaluate_graph,
    make_graph,
    plan,
    plan_graph,
)
from shardline.partition.ideals import downsets, sliced
from tests.unit.partition.test_exact import problems

CLOSE = 1e-7


@st.composite
def graphs(draw: st.DrawFn) -> GraphProblem:
    """Up to five unequal ops with any edges on up to four nodes."""
    problem = draw(problems())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = len(problem.blocks)
    dense = draw(st.sampled_from([0.2, 0.5, 0.8]))
    pairs = [(one, other) for other in range(count) for one in range(other)]
    return GraphProblem(problem, tuple(pair for pair in pairs if rng.random() < dense))


def least(graph: GraphProblem, weight: float) -> float:
    """The best value of all placings there are."""
    best = inf
    for placing in product(range(len(graph.problem.nodes)), repeat=len(graph.readers)):
        try:
            best = min(best, evaluate_graph(graph, placing).value_s(weight))
        except ValueError:
            continue  # nodes that wait for each other
    return best


@settings(max_examples=15)
@given(graphs(), st.sampled_from(["throughput", "latency", 0.3]))
def test_exact_equals_trying_everything_and_nothing_beats_it(
    graph: GraphProblem, objective: str | float
) -> None:
    weight = {"throughput": 1.0, "latency": 0.0}.get(str(objective), objective)
    best_ms = 1e3 * least(graph, float(weight))
    for method in GRAPH_METHODS:
        try:
            found = plan_graph(graph, method, objective=objective, budget_s=0.1)
        except BadInput:
            assert best_ms == inf or method not in {"exact", "auto"}
            continue
        assert found.value_ms >= best_ms * (1 - CLOSE)
        assert found.lower_bound_ms <= best_ms * (1 + CLOSE)
        if method in {"exact", "auto"}:
            assert found.value_ms == pytest.approx(best_ms, rel=CLOSE)
            assert found.gap == pytest.approx(0, abs=CLOSE)


@settings(max_examples=12)
@given(problems(), st.sampled_from(["throughput", "latency"]))
def test_the_best_placing_of_a_chain_is_the_best_chain(problem: Problem, objective: str) -> None:
    try:
        chain = plan(problem, "exact", objective=objective)
    except BadInput:
        with pytest.raises(BadInput):
            plan_graph(GraphProblem.of_chain(problem), "exact", objective=objective)
        return
    found = plan_graph(GraphProblem.of_chain(problem), "exact", objective=objective)
    assert found.value_ms == pytest.approx(chain.value_ms, rel=CLOSE)


def test_downsets_are_counted() -> None:
    problem = make_graph("transformer", 6, 2).problem
    assert downsets(GraphProblem.of_chain(problem)) == [0, 1, 3, 7, 15, 31, 63]
    branches = GraphProblem(problem, ((0, 1), (1, 2), (3, 4), (4, 5)))
    assert len(downsets(branches) or []) == 16
    assert downsets(GraphProblem(problem, ()), most=63) is None


@pytest.mark.parametrize("kind", ["layered", "series-parallel", "transformer"])
def test_where_links_are_alike_the_table_is_nearly_the_best(kind: str) -> None:
    graph = make_graph(kind, 9, 3, seed=4)
    found, best = sliced(graph), plan_graph(graph, "exact")
    assert found is not None
    assert 1e3 * found.bound_s <= best.value_ms * (1 + CLOSE)
    assert 1e3 * found.bound_s == pytest.approx(best.value_ms, rel=0.05)


def test_exact_refuses_what_would_take_too_long() -> None:
    with pytest.raises(BadInput, match="not certain of 30 ops"):
        plan_graph(make_graph("layered", 30, 5, family="homes"), "exact", objective="latency")
