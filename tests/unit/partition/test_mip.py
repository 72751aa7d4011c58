"""The solver's answers are those of `exact`, and its bound holds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.core.errors import BadInput
from shardline.partition import Problem, make, plan
from tests.unit.partition.test_exact import problems

CLOSE = 1e-5
"""Relative: the solver has tolerances of its own."""


@settings(max_examples=15)
@given(problems(), st.sampled_from(["throughput", "latency", 0.4]))
def test_the_solver_finds_what_exact_finds(problem: Problem, objective: str | float) -> None:
    try:
        best = plan(problem, "exact", objective=objective)
    except BadInput:
        with pytest.raises(BadInput):
            plan(problem, "mip", objective=objective, budget_s=None)
        return
    found = plan(problem, "mip", objective=objective, budget_s=None)
    assert found.value_ms == pytest.approx(best.value_ms, rel=CLOSE)
    assert found.lower_bound_ms == pytest.approx(best.value_ms, rel=CLOSE)
    assert found.lower_bound_ms <= best.value_ms * (1 + 1e-9)


def test_when_the_time_is_over_its_chain_and_its_bound_still_hold() -> None:
    problem = make("ring", 8, 16, seed=2)
    best = plan(problem, "exact")
    found = plan(problem, "mip", budget_s=0.3)
    assert found.lower_bound_ms <= best.value_ms <= found.value_ms * (1 + 1e-9)


def test_more_than_a_few_dozen_nodes_are_refused() -> None:
    with pytest.raises(BadInput, match="mip takes a few dozen nodes, not 64"):
        plan(make("lan", 64, 80), "mip")
