"""Exact equals trying everything; bounds and searches keep to it."""

from __future__ import annotations

from itertools import combinations, pairwise, permutations
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.core.errors import BadInput
from shardline.partition import Block, Node, Problem, Share, evaluate, make, plan

CLOSE = 1e-7


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Up to four nodes and five blocks, all unequal; some links missing, some nodes streaming."""
    nodes, blocks = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    alike = draw(st.booleans())

    def block() -> Block:
        return Block(
            work_s=float(rng.uniform(1e-3, 1e-2)),
            parameter_bytes=int(rng.integers(1, 100)),
            output_bytes=int(rng.integers(0, 1000)),
            cache_bytes=int(rng.integers(0, 20)),
        )

    one = block()
    size = nodes + 1
    rates = rng.uniform(1e4, 1e6, (size, size))
    rates[rng.random((size, size)) < draw(st.sampled_from([0.0, 0.2]))] = 0
    return Problem(
        blocks=tuple(one if alike else block() for _ in range(blocks)),
        nodes=tuple(
            Node(
                name=f"n{index}",
                memory_bytes=int(rng.integers(50, 400)),
                speed=float(rng.uniform(0.3, 3)),
                stream_bytes_per_s=1e4 if rng.random() < 0.3 else None,
                overhead_s=float(rng.uniform(0, 1e-3)),
            )
            for index in range(nodes)
        ),
        delay_s=rng.uniform(0, 0.02, (size, size)),
        bytes_per_s=rates,
        input_bytes=100,
    )


def least(problem: Problem, weight: float) -> float:
    """The best value of all chains there are."""
    blocks, best = len(problem.blocks), inf
    for count in range(1, min(len(problem.nodes), blocks) + 1):
        for nodes in permutations(range(len(problem.nodes)), count):
            for inner in combinations(range(1, blocks), count - 1):
                cuts = pairwise([0, *inner, blocks])
                chain = [Share(node, *cut) for node, cut in zip(nodes, cuts, strict=True)]
                best = min(best, evaluate(problem, chain).value_s(weight))
    return best


@settings(max_examples=60)
@given(problems(), st.sampled_from(["throughput", "latency", 0.3, 0.9]))
def test_exact_equals_trying_everything(problem: Problem, objective: str | float) -> None:
    weight = {"throughput": 1.0, "latency": 0.0}.get(str(objective), objective)
    best_ms = 1e3 * least(problem, float(weight))
    if best_ms == inf:
        with pytest.raises(BadInput):
            plan(problem, "exact", objective=objective)
        return
    found = plan(problem, "exact", objective=objective)
    assert found.value_ms == pytest.approx(best_ms, rel=CLOSE)


@settings(max_examples=30)
@given(problems(), st.sampled_from(["throughput", "latency"]))
def test_bounds_never_exceed_the_best(problem: Problem, objective: str) -> None:
    best_ms = 1e3 * least(problem, 1.0 if objective == "throughput" else 0.0)
    for method in ("search", "greedy"):
        try:
            found = plan(problem, method, objective=objective, budget_s=0.1)
        except BadInput:
            continue  # a heuristic may find none; exact says whether there is one
        assert found.value_ms >= best_ms * (1 - CLOSE)
        assert found.lower_bound_ms <= best_ms * (1 + CLOSE)


def test_exact_refuses_what_would_take_too_long() -> None:
    with pytest.raises(BadInput, match="at most 14 nodes"):
        plan(make("lan", 15, 32), "exact")
    with pytest.raises(BadInput, match="at most 8 nodes"):
        plan(make("lan", 9, 32), "exact", objective=0.5)
