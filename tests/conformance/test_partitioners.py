"""What every method of planning promises."""

from __future__ import annotations

import pytest

from shardline.core.errors import BadInput
from shardline.partition import FAMILIES, METHODS, Share, evaluate, make, plan
from tests.conformance.partitioners import PARTITIONERS

NODES, BLOCKS = 5, 9
CLOSE = 1e-9

pytestmark = pytest.mark.parametrize("method", PARTITIONERS)


def test_every_method_is_in_the_list(method: str) -> None:
    assert method in METHODS
    assert set(PARTITIONERS) == set(METHODS)


@pytest.mark.parametrize("objective", ["throughput", "latency", 0.8])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_covers_fits_and_says_what_evaluate_says(
    method: str, family: str, objective: str | float
) -> None:
    problem = make(family, NODES, BLOCKS, seed=3)
    found = plan(problem, method, objective=objective, budget_s=None)
    names = [node.name for node in problem.nodes]
    chain = [Share(names.index(part.node), part.start, part.stop) for part in found.assignment]
    figures = evaluate(problem, chain)  # raises unless it covers all blocks, each node once
    for share in chain:
        blocks = problem.blocks[share.start : share.stop]
        held = sum(block.parameter_bytes + block.cache_bytes for block in blocks)
        assert held <= problem.nodes[share.node].memory_bytes
    assert found.stage_ms == pytest.approx([1e3 * stage for stage in figures.stage_s])
    assert found.bottleneck_ms == max(found.stage_ms)
    assert found.latency_ms == pytest.approx(1e3 * figures.latency_s)
    mixed = 0.8 * found.bottleneck_ms + 0.2 * found.latency_ms
    values = {"throughput": found.bottleneck_ms, "latency": found.latency_ms, 0.8: mixed}
    assert found.value_ms == pytest.approx(values[objective])
    assert found.gap == pytest.approx(found.value_ms / found.lower_bound_ms - 1)
    assert found.gap >= 0
    assert len(found.reasons) == NODES


@pytest.mark.parametrize("objective", ["throughput", "latency"])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_method_beats_exact_and_no_bound_exceeds_it(
    method: str, family: str, objective: str
) -> None:
    problem = make(family, NODES, BLOCKS, seed=5)
    best = plan(problem, "exact", objective=objective)
    found = plan(problem, method, objective=objective, budget_s=None)
    assert found.value_ms >= best.value_ms * (1 - CLOSE)
    assert found.lower_bound_ms <= best.value_ms * (1 + CLOSE)


def test_the_same_seed_gives_the_same_plan(method: str) -> None:
    problem = make("homes", NODES, BLOCKS, seed=7)
    first, second = (plan(problem, method, seed=1, budget_s=None) for _ in range(2))
    assert first.assignment == second.assignment


def test_a_model_that_fits_nowhere_is_one_line_that_says_what_is_missing(method: str) -> None:
    problem = make("lan", 4, 8).without({"n001", "n002", "n003"})
    big = make("lan", 1, 40)
    crowded = type(problem)(
        big.blocks * 4, problem.nodes, problem.delay_s, problem.bytes_per_s, problem.input_bytes
    )
    with pytest.raises(BadInput, match="add nodes with") as caught:
        plan(crowded, method)
    assert "\n" not in str(caught.value)
