"""Roles, and how they become a plan of another problem."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.core.spans import Span
from shardline.partition import FAMILIES, evaluate, lay, make, plan, shipped
from shardline.partition.costs import Costs
from shardline.partition.schemes_laying import Swarm, quick_bound_s
from tests.unit.partition.test_schemes import renamed

families = st.sampled_from(sorted(FAMILIES))
seeds = st.integers(0, 1_000)


@settings(max_examples=12)
@given(families, st.integers(1, 40), seeds)
def test_roles_know_no_names(family: str, nodes: int, seed: int) -> None:
    problem = make(family, nodes, 8, seed)
    order = np.random.default_rng(seed).permutation(nodes)
    chain = list(range(min(nodes, 8)))
    there = [order.tolist().index(node) for node in chain]
    ours = np.array(Swarm(problem).of(chain))
    theirs = np.array(Swarm(renamed(problem, order)).of(there))
    assert np.abs(ours - theirs).max() <= 0.011  # rounded


@settings(max_examples=12)
@given(st.sampled_from(["star", "homes", "mixed"]), st.integers(2, 20), seeds)
def test_a_swarm_casts_its_own_chain_for_its_roles(family: str, nodes: int, seed: int) -> None:
    problem = make(family, nodes, 8, seed)
    chain = np.random.default_rng(seed).permutation(nodes)[:6].tolist()
    swarm = Swarm(problem)
    cast = swarm.cast(swarm.of(chain), np.ones(nodes, dtype=np.bool_))
    assert len(set(cast)) == len(cast) == len(chain)
    assert np.mean(np.array(cast) == np.array(chain)) >= 0.5  # some nodes are as good as twins


def test_nodes_that_can_hold_nothing_play_no_role() -> None:
    problem = make("homes", 6, 8, seed=2)
    swarm = Swarm(problem)
    able = np.array([True, False, True, False, False, True])
    assert sorted(swarm.cast(swarm.of(range(6)), able)) == [0, 2, 5]


@settings(max_examples=20)
@given(families, st.integers(1, 5), st.integers(1, 9), seeds, st.sampled_from([0.0, 0.5, 1.0]))
def test_no_plan_beats_the_quick_bound(
    family: str, nodes: int, blocks: int, seed: int, weight: float
) -> None:
    problem = make(family, nodes, blocks, seed)
    best = plan(problem, "exact", objective=weight)
    assert 1e3 * quick_bound_s(Costs(problem), weight) <= best.value_ms * (1 + 1e-9)


@settings(max_examples=15)
@given(families, st.integers(1, 40), st.integers(1, 50), seeds, st.sampled_from([0.0, 0.5, 1.0]))
def test_any_scheme_can_be_laid_on_any_network(
    family: str, nodes: int, blocks: int, seed: int, weight: float
) -> None:
    problem = make(family, nodes, blocks, seed)
    scheme = shipped().schemes[seed % len(shipped().schemes)]
    chain = lay(problem, scheme, objective=weight, seed=seed)
    assert chain is not None
    assert isfinite(evaluate(problem, chain).value_s(weight))


@pytest.mark.parametrize("objective", ["throughput", "latency"])
def test_blocks_that_are_there_already_stay_where_they_are(objective: str) -> None:
    problem = make("lan", 4, 8, seed=1)
    nodes = list(problem.nodes)
    nodes[1] = replace(nodes[1], holds=Span(0, 2))
    found = plan(replace(problem, nodes=tuple(nodes)), "scheme", objective=objective)
    assert all(part.stop <= 2 for part in found.assignment if part.node == nodes[1].name)
