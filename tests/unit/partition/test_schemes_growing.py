"""Chains grown at once, and what is known at once where blocks are all alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.core.errors import BadInput
from shardline.partition import FAMILIES, Problem, evaluate, make, plan
from shardline.partition.bounds import least_bottleneck_s
from shardline.partition.costs import Costs
from shardline.partition.growing import evened, fitted
from shardline.partition.schemes_growing import grown_at

families = st.sampled_from(sorted(FAMILIES))
seeds = st.integers(0, 1_000)


def hardly_uneven(problem: Problem) -> Problem:
    """The same, but for one block that takes a billionth longer: nothing is alike any more."""
    first, *others = problem.blocks
    other = replace(first, work_s=first.work_s * (1 + 1e-9))
    return replace(problem, blocks=(other, *others))


@settings(max_examples=15)
@given(families, st.integers(1, 12), st.integers(2, 20), seeds)
def test_blocks_that_are_alike_cost_what_others_cost(
    family: str, nodes: int, blocks: int, seed: int
) -> None:
    problem = make(family, nodes, blocks, seed)
    alike, others = Costs(problem), Costs(hardly_uneven(problem))
    assert alike.alike
    assert not others.alike
    for name in ("segment", "least", "usual"):
        assert np.allclose(getattr(alike, name), getattr(others, name), rtol=1e-6)
    assert alike.capacities().tolist() == others.capacities().tolist()


@settings(max_examples=15)
@given(families, st.integers(1, 8), st.integers(8, 30), seeds)
def test_the_best_cut_of_an_order_is_known_at_once_where_blocks_are_alike(
    family: str, nodes: int, blocks: int, seed: int
) -> None:
    problem = make(family, nodes, blocks, seed)
    order = np.random.default_rng(seed).permutation(nodes).tolist()
    costs, others = Costs(problem), Costs(hardly_uneven(problem))
    limit_s = evened(costs, order)[0]
    found = fitted(costs, order, limit_s)
    assert found
    assert evaluate(problem, found).bottleneck_s == pytest.approx(limit_s)
    searched = fitted(others, order, 1.5 * limit_s)
    assert searched
    assert limit_s <= evaluate(problem, searched).bottleneck_s * (1 + 1e-6)
    assert fitted(costs, order, 0.999 * limit_s) is None


@settings(max_examples=15)
@given(
    families, st.integers(1, 40), st.integers(1, 40), seeds, st.sampled_from(["alike", "uneven"])
)
def test_a_chain_is_found_wherever_the_search_begins(
    family: str, nodes: int, blocks: int, seed: int, kind: str
) -> None:
    problem = make(family, nodes, blocks, seed)
    costs = Costs(problem if kind == "alike" else hardly_uneven(problem))
    rng = np.random.default_rng(seed)
    start = rng.permutation(nodes)[: min(nodes, blocks) // 2].tolist()
    bound_s = least_bottleneck_s(costs)
    for limit_s in (bound_s, 3 * bound_s):
        found = grown_at(costs, start, (bound_s, limit_s), 2, rng)
        assert found
        assert evaluate(problem, found).bottleneck_s >= bound_s * (1 - 1e-6)


def test_nodes_that_cannot_hold_the_model_grow_no_chain() -> None:
    costs = Costs(make("lan", 4, 40, seed=1)).among([0])
    assert costs.capacities().sum() < costs.blocks
    assert grown_at(costs, [0], (0.01, 0.01), 2, np.random.default_rng(0)) is None


def test_a_fast_chain_is_found_where_the_quickest_nodes_hold_too_little() -> None:
    problem = make("two-clusters", 128, 126, seed=1)
    assert plan(problem, "scheme", objective="latency").gap < 0.5


def test_a_model_that_does_not_fit_is_refused() -> None:
    problem = make("lan", 4, 40, seed=1)
    with pytest.raises(BadInput, match="the nodes"):
        plan(problem.without({"n000", "n001", "n002"}), "scheme")
