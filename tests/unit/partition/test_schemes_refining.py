"""Better and better plans."""

from __future__ import annotations

from itertools import pairwise

import pytest

from shardline.core.errors import BadInput
from shardline.partition import Library, make, plan, refine, scheme_of


@pytest.mark.parametrize("objective", ["throughput", "latency", 0.5])
def test_a_plan_is_there_at_once_and_only_better_or_surer_ones_follow(
    objective: str | float,
) -> None:
    problem = make("mixed", 20, 40, seed=4)
    found = list(refine(problem, objective=objective, budget_s=0.7))
    assert found[0].method == "scheme"
    for before, after in pairwise(found):
        assert after.value_ms <= before.value_ms
        assert after.lower_bound_ms >= min(before.lower_bound_ms, after.value_ms)
        assert after.gap < before.gap


def test_it_ends_with_the_best_where_the_best_is_known() -> None:
    problem = make("homes", 6, 9, seed=4)
    *_, last = refine(problem, budget_s=30)
    assert last.value_ms == pytest.approx(plan(problem, "exact").value_ms)
    assert last.gap == pytest.approx(0, abs=1e-4)


def test_what_cannot_be_planned_is_said() -> None:
    problem = make("lan", 4, 8).without({"n001", "n002", "n003"})
    crowded = type(problem)(problem.blocks * 9, problem.nodes, problem.delay_s, problem.bytes_per_s)
    with pytest.raises(BadInput, match="add nodes"):
        next(refine(crowded))


def test_another_library_gives_other_schemes() -> None:
    problem = make("homes", 9, 30, seed=4)
    own = Library((scheme_of(problem, "own", looks=50),))
    (first, *_) = refine(problem, library=own, budget_s=0.1)
    assert first.method == "scheme"
    assert first.assignment == plan(problem, "scheme", library=own).assignment
