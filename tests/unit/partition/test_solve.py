"""Plans at sizes where exact gives up; reasons; bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf

import numpy as np
import pytest

from shardline.core.errors import BadInput
from shardline.partition import FAMILIES, Problem, make, plan


@pytest.mark.parametrize("family", FAMILIES)
def test_forty_nodes_are_planned_close_to_the_bound_for_throughput(family: str) -> None:
    found = plan(make(family, 40, 32, seed=1), objective="throughput", budget_s=1.5)
    assert found.gap < 0.1


@pytest.mark.parametrize("family", ["lan", "star", "homes", "mixed"])
def test_forty_nodes_are_planned_close_to_the_bound_for_latency(family: str) -> None:
    found = plan(make(family, 40, 32, seed=1), objective="latency", budget_s=1.5)
    assert found.gap < 0.1


def test_a_plan_is_plain_data_with_the_promised_keys() -> None:
    data = json.loads(json.dumps(plan(make("lan", 4, 8)).to_json()))
    assert set(data["assignment"][0]) == {"node", "start", "stop"}
    promised = {"method", "assignment", "stage_ms", "bottleneck_ms", "latency_ms"}
    assert promised | {"lower_bound_ms", "gap", "reasons", "seconds"} <= set(data)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_slowest_stage_is_called_so_and_no_other(family: str) -> None:
    found = plan(make(family, 5, 24), method="greedy")
    said = found.reasons[: len(found.assignment)]
    told = [f"{ms:.1f}" for ms, text in zip(found.stage_ms, said, strict=True) if "slowest" in text]
    assert told
    assert set(told) <= {f"{found.bottleneck_ms + by:.1f}" for by in (-0.02, 0.0)}
    assert found.stage_ms.index(found.bottleneck_ms) in {
        at for at, text in enumerate(said) if "slowest" in text
    }


def test_memory_does_not_hold_back_who_has_all_blocks() -> None:
    (text,) = plan(make("lan", 1, 4)).reasons
    assert "memory" not in text


def test_reasons_name_what_holds_a_node_back() -> None:
    problem = make("lan", 3, 12)
    nodes = [replace(node, memory_bytes=10**12) for node in problem.nodes]
    nodes[0] = replace(nodes[0], memory_bytes=2 * 1_700_000_000, speed=50.0)
    nodes[2] = replace(nodes[2], memory_bytes=1)
    said = plan(replace(problem, nodes=tuple(nodes))).reasons
    assert any(text.startswith("n000") and "memory holds it back" in text for text in said)
    assert any(text.startswith("n001") and "compute holds it back" in text for text in said)
    assert said[-1].startswith("n002 is unused")


def test_nodes_that_nobody_reaches_make_no_plan() -> None:
    problem = make("lan", 3, 6)
    cut_off = replace(problem, delay_s=problem.delay_s + inf)
    for method in ("search", "exact", "greedy", "petals"):
        with pytest.raises(BadInput, match="chain"):
            plan(cut_off, method)


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadInput, match="there are auto, exact"):
        plan(make("lan", 2, 2), "magic")


def test_one_node_and_one_block_are_a_plan() -> None:
    problem = make("homes", 1, 1)
    for objective in ("throughput", "latency", 0.5):
        assert plan(problem, "search", objective=objective).gap == pytest.approx(0, abs=1e-6)


def test_blocks_of_unequal_cost_are_cut_by_their_own() -> None:
    problem = make("lan", 10, 12)
    rng = np.random.default_rng(0)
    blocks = tuple(
        replace(block, work_s=block.work_s * float(rng.uniform(0.5, 3)), output_bytes=size)
        for block, size in zip(problem.blocks, range(1000, 13_000, 1000), strict=True)
    )
    uneven: Problem = replace(problem, blocks=blocks)
    best = plan(uneven, "exact")
    found = plan(uneven, "search", budget_s=2)
    assert best.value_ms * (1 - 1e-9) <= found.value_ms <= best.value_ms * 1.25
