"""Plans by the nearest scheme, against those of a search."""

from __future__ import annotations

import pytest

from shardline.partition import FAMILIES, make, plan


@pytest.mark.parametrize("objective", ["throughput", "latency"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_scheme_comes_close_to_what_a_search_finds(family: str, objective: str) -> None:
    problem = make(family, 24, 40, seed=11)
    found = plan(problem, "scheme", objective=objective)
    searched = plan(problem, objective=objective, budget_s=0.6, bound_ms=found.lower_bound_ms)
    assert found.value_ms <= 1.1 * searched.value_ms
    assert found.lower_bound_ms <= searched.value_ms * (1 + 1e-9)


def test_a_mix_is_no_worse_than_either_end() -> None:
    problem = make("homes", 24, 40, seed=12)
    mixed, wide, fast = (
        plan(problem, "scheme", objective=objective) for objective in (0.5, "throughput", "latency")
    )
    ends = [(plan.bottleneck_ms + plan.latency_ms) / 2 for plan in (wide, fast)]
    assert mixed.value_ms <= 1.05 * min(ends)
