"""The problem as data, and what a plan costs."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.core.errors import BadInput
from shardline.core.spans import Span
from shardline.partition import Block, Node, Problem, Share, evaluate, make, weight_of

GB = 10**9


def two(**node: Any) -> Problem:
    """Three blocks of 10 ms, two nodes; 1 MB takes 1 ms on every link, and 5 ms of delay."""
    block = Block(work_s=0.01, parameter_bytes=GB, output_bytes=10**6)
    first = replace(Node("a", 2 * GB), **node)
    return Problem(
        blocks=(block,) * 3,
        nodes=(first, Node("b", 2 * GB, speed=2.0)),
        delay_s=np.full((3, 3), 0.005),
        bytes_per_s=np.full((3, 3), 1e9),
        input_bytes=2 * 10**6,
    )


def test_a_stage_is_io_in_and_work_and_overflow_and_io_out() -> None:
    figures = evaluate(two(), [Share(0, 0, 2), Share(1, 2, 3)])
    assert figures.stage_s == pytest.approx([0.002 + 0.020 + 0.001, 0.001 + 0.005 + 0.001])
    assert figures.bottleneck_s == pytest.approx(0.023)
    assert figures.latency_s == pytest.approx(0.025 + 3 * 0.005 + 0.004)


def test_what_does_not_fit_is_streamed_or_forbidden() -> None:
    chain = [Share(0, 0, 3)]
    assert evaluate(two(), chain).bottleneck_s == inf
    streaming = evaluate(two(stream_bytes_per_s=10e9), chain)
    assert streaming.overflow_s == pytest.approx([0.1])
    assert streaming.stage_s == pytest.approx([0.002 + 0.03 + 0.1 + 0.001])


def test_a_cache_is_never_streamed() -> None:
    problem = two(memory_bytes=GB, stream_bytes_per_s=1e9)
    cached = replace(problem.blocks[0], cache_bytes=GB)
    full = replace(problem, blocks=(cached,) * 3)
    assert evaluate(full, [Share(0, 0, 1), Share(1, 1, 3)]).latency_s == inf


def test_a_node_that_holds_blocks_gets_no_others() -> None:
    problem = two(holds=Span(1, 3))
    assert evaluate(problem, [Share(0, 0, 1), Share(1, 1, 3)]).latency_s == inf
    assert evaluate(problem, [Share(1, 0, 1), Share(0, 1, 3)]).latency_s < inf


@pytest.mark.parametrize(
    "chain",
    [
        [Share(0, 0, 2)],
        [Share(0, 1, 3)],
        [Share(0, 0, 1), Share(0, 1, 3)],
        [Share(0, 0, 0), Share(1, 0, 3)],
        [],
    ],
)
def test_shares_that_are_no_chain_are_refused(chain: list[Share]) -> None:
    with pytest.raises(ValueError, match="shares"):
        evaluate(two(), chain)


@given(st.sampled_from(["lan", "homes"]), st.integers(1, 5), st.integers(1, 6), st.integers(0, 9))
def test_a_problem_survives_json(family: str, nodes: int, blocks: int, seed: int) -> None:
    problem = make(family, nodes, blocks, seed)
    again = Problem.from_json(json.loads(json.dumps(problem.to_json())))
    assert again.blocks == problem.blocks
    assert again.nodes == problem.nodes
    assert (again.delay_s == problem.delay_s).all()
    assert (again.bytes_per_s == problem.bytes_per_s).all()


def test_what_is_infinite_survives_json() -> None:
    problem = two(holds=Span(0, 1))
    delay_s = problem.delay_s.copy()
    delay_s[0, 1] = inf
    again = Problem.from_json(json.loads(json.dumps(replace(problem, delay_s=delay_s).to_json())))
    assert again.delay_s[0, 1] == inf
    assert again.nodes[0].holds == Span(0, 1)


def test_a_prompt_costs_its_tokens() -> None:
    problem = make("lan", 2, 2).prefill(100)
    assert problem.blocks[0].work_s == pytest.approx(0.04)
    assert problem.cut_bytes(1) == 1_638_400


@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        (("nodes", 0, "colour"), "red", "node a: unknown keys colour"),
        (("nodes", 0, "memory_bytes"), -1, "memory_bytes is -1"),
        (("nodes", 0), {"name": "a"}, "node a: memory_bytes missing"),
        (("blocks", 0, "work_s"), 0.0, "more than 0"),
        (("nodes", 1, "name"), "a", "two nodes are called a"),
        (("delay_s",), [[0.0]], "delay_s is"),
        (("delay_s", 0, 1), -1.0, "negative"),
        (("nodes",), [], "at least one"),
    ],
)
def test_bad_input_is_one_line(where: tuple[str | int, ...], value: object, says: str) -> None:
    data = two().to_json()
    spoilt: Any = data
    for key in where[:-1]:
        spoilt = spoilt[key]
    spoilt[where[-1]] = value
    with pytest.raises(BadInput, match=says) as caught:
        Problem.from_json(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("objective", ["speed", -0.1, 1.1])
def test_an_unknown_objective_is_refused(objective: str | float) -> None:
    with pytest.raises(BadInput, match="objective"):
        weight_of(objective)
