"""Bounds of networks in groups: never above the best, and far closer than without groups."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.partition import evaluate, make, plan
from shardline.partition.costs import Costs
from shardline.partition.exact import exact
from shardline.partition.pricing import price
from shardline.partition.touring import groups, toured

if TYPE_CHECKING:
    from shardline.partition.problem import Problem


def _regions(nodes: int, regions: int, seed: int) -> Problem:
    """A LAN's nodes in random regions, one way between two of them unlike the way back."""
    rng = np.random.default_rng(seed)
    problem = make("lan", nodes, 12, seed)
    region = rng.integers(0, regions, nodes + 1)
    apart = rng.uniform(0.004, 0.03, (regions, regions))
    np.fill_diagonal(apart, 0.0)
    return replace(problem, delay_s=problem.delay_s + apart[region[:, None], region])


@given(st.integers(2, 5), st.integers(0, 1_000))
@settings(max_examples=6)
def test_no_chain_beats_the_bound(regions: int, seed: int) -> None:
    problem = _regions(9, regions, seed)
    best_s = evaluate(problem, exact(problem, 0.0)).latency_s
    found = toured(Costs(problem), lambda _: lambda: False)
    assert found.chain
    assert found.bound_s <= best_s * (1 + 1e-9)
    assert evaluate(problem, found.chain).latency_s >= best_s * (1 - 1e-9)


def test_a_bound_that_is_cut_short_is_one_still() -> None:
    problem = _regions(9, 4, 7)
    best_s = evaluate(problem, exact(problem, 0.0)).latency_s
    looks = 0

    def over() -> bool:
        nonlocal looks
        looks += 1
        return looks > 40

    assert 0 < toured(Costs(problem), lambda _: over).bound_s <= best_s * (1 + 1e-9)


def test_regions_on_a_ring_are_bounded_closely_where_prices_alone_are_not() -> None:
    problem = make("ring", 18, 32)
    plain = price(Costs(problem), lambda: False)
    found = plan(problem, objective="latency", budget_s=None)
    assert found.value_ms > 1.05e3 * plain.bound_s
    assert found.gap < 0.05


@pytest.mark.parametrize(("family", "count"), [("ring", 6), ("two-clusters", 2), ("lan", 1)])
def test_groups_are_those_of_the_network(family: str, count: int) -> None:
    problem = make(family, 40, 32)
    found = groups(problem.delay_s[:-1, :-1])
    assert len(set(found.tolist())) == count
    if count > 1:
        size = len(found)
        expected = np.arange(size) % count
        assert all(len(set(found[expected == one].tolist())) == 1 for one in range(count))


def test_homes_and_islands_are_no_groups() -> None:
    homes = make("homes", 40, 32).delay_s[:-1, :-1]
    assert not groups(homes).any()
    assert not groups(np.full((9, 9), np.inf)).any()
