"""Plans with replicas, beside the best of all arrangements of a few nodes and blocks."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from itertools import product
from math import inf
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.core.errors import BadInput
from shardline.core.spans import Span
from shardline.partition import (
    FAMILIES,
    Block,
    Node,
    Problem,
    Share,
    evaluate,
    make,
    plan,
    plan_shared,
    spans_carry,
)
from shardline.partition.sharing import Route, carried

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardline.partition import SharedPlan

_optimize = cast("Any", importlib.import_module("scipy.optimize"))

CASES = 12
TINY_NODES, TINY_BLOCKS = 4, 4


# --- THE ORACLE: A FLOW OVER ARCS BY HIGHS, FOR ALL ARRANGEMENTS ---


def flow(problem: Problem, held: dict[int, Span]) -> float:
    """Tokens a second of these spans; shares nothing with what it judges but `problem`.

    Columns are uses of nodes for parts of their spans, and hand-overs between nodes at cuts. What
    enters a node at a cut is what its uses from there are, and so on.
    """
    caller, last = len(problem.nodes), len(problem.blocks)
    uses = [
        Share(node, start, stop)
        for node, span in held.items()
        for start in range(span.start, span.stop)
        for stop in range(start + 1, span.stop + 1)
    ]
    into = {(use.start, use.node) for use in uses}
    out = {(use.stop, use.node) for use in uses}
    hands = [(0, caller, node) for cut, node in into if cut == 0]
    hands += [(last, node, caller) for cut, node in out if cut == last]
    hands += [
        (cut, one, other)
        for cut, one in out
        for at, other in into
        if cut == at and one != other and 0 < cut < last
    ]
    hands = [hand for hand in hands if problem.transfer_s(*hand) < inf]
    columns = len(uses) + len(hands)
    spent = np.zeros((caller + 1, columns))
    kept: list[np.ndarray[Any, Any]] = []
    for at, use in enumerate(uses):
        over_s = problem.compute_s(Share(use.node, held[use.node].start, held[use.node].stop))[1]
        spent[use.node, at] = problem.compute_s(use)[0] + over_s
    for at, hand in enumerate(hands, len(uses)):
        spent[list(hand[1:]), at] += problem.transfer_s(*hand)
    for pairs, ends in ((into, 2), (out, 1)):
        for cut, node in pairs:
            row = np.zeros(columns)
            for at, use in enumerate(uses):
                row[at] = (use.start if ends == 2 else use.stop, use.node) == (cut, node)
            for at, hand in enumerate(hands, len(uses)):
                row[at] = -float((hand[0], hand[ends]) == (cut, node))
            kept.append(row)
    first = np.array([0.0] * len(uses) + [-float(one == caller) for _, one, _ in hands])
    found = _optimize.linprog(
        first,
        A_ub=spent[:caller],
        b_ub=np.ones(caller),
        A_eq=np.stack(kept),
        b_eq=np.zeros(len(kept)),
        method="highs",
    )
    return -float(found.fun)


def arrangements(problem: Problem) -> list[dict[int, Span]]:
    """All spans of all nodes; without streaming the widest are enough, as more is never worse."""
    choices: list[list[Span | None]] = []
    last = len(problem.blocks)
    for node in range(len(problem.nodes)):
        spans = [Span(a, b) for a in range(last) for b in range(a + 1, last + 1)]
        over = {one: problem.compute_s(Share(node, one.start, one.stop))[1] for one in spans}
        fits = [one for one in spans if over[one] == 0]
        widest = [one for one in fits if not any(_inside(one, other) for other in fits)]
        choices.append([None, *widest, *(one for one in spans if 0 < over[one] < inf)])
    return [
        {node: span for node, span in enumerate(one) if span is not None}
        for one in product(*choices)
        if all(any(span and block in span for span in one) for block in range(last))
    ]


def _inside(one: Span, other: Span) -> bool:
    return one != other and other.start <= one.start and one.stop <= other.stop


def best_of_all(problem: Problem) -> float:
    return max((flow(problem, held) for held in arrangements(problem)), default=0.0)


@st.composite
def tiny(draw: st.DrawFn) -> Problem:
    """Two to four nodes and blocks, unequal in all that counts; now and then one may stream."""
    blocks, nodes = draw(st.integers(2, TINY_BLOCKS)), draw(st.integers(2, TINY_NODES))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    streams = draw(st.booleans()) and nodes < TINY_NODES
    alike = draw(st.booleans())
    works = [1e-2] * blocks if alike else list(rng.uniform(2e-3, 2e-2, blocks))
    return Problem(
        blocks=tuple(Block(work, 100, int(rng.integers(1, 9)) * 1_000, 10) for work in works),
        nodes=tuple(
            Node(
                f"n{at}",
                memory_bytes=110 * int(rng.integers(1, blocks + 1)),
                speed=float(rng.lognormal(0, 0.7)),
                stream_bytes_per_s=1e4 if streams and at == 0 else None,
                overhead_s=float(rng.choice([0.0, 1e-3])),
            )
            for at in range(nodes)
        ),
        delay_s=rng.uniform(0, 0.05, (nodes + 1, nodes + 1)),
        bytes_per_s=rng.lognormal(14, 1, (nodes + 1, nodes + 1)),
        input_bytes=2_000,
    )


def tried(problem: Problem) -> SharedPlan | None:
    try:
        return plan_shared(problem, budget_s=None)
    except BadInput:
        return None


# --- WHAT ALWAYS HOLDS ---


@given(tiny())
@settings(max_examples=14)
def test_no_plan_beats_the_best_of_all_and_all_it_says_follows_from_its_numbers(
    problem: Problem,
) -> None:
    found = tried(problem)
    if found is None:
        return
    best = best_of_all(problem)
    assert found.tokens_per_s <= best * (1 + 1e-6)
    assert 1e3 / found.lower_bound_ms >= best * (1 - 1e-6)
    assert found.tokens_per_s >= found.chain_tokens_per_s * (1 - 1e-6)
    check_figures(problem, found)


@given(tiny(), st.integers(0, 1_000))
@settings(max_examples=20)
def test_spans_carry_what_a_flow_over_arcs_does(problem: Problem, seed: int) -> None:
    rng = np.random.default_rng(seed)
    held: dict[int, Span] = {}
    for node in range(len(problem.nodes)):
        start, stop = sorted(rng.choice(len(problem.blocks) + 1, 2, replace=False).tolist())
        if problem.compute_s(Share(node, start, stop))[1] < inf:
            held[node] = Span(start, stop)
    covered = {block for span in held.values() for block in range(span.start, span.stop)}
    best = flow(problem, held) if len(covered) == len(problem.blocks) else 0.0
    names = {problem.nodes[node].name: span for node, span in held.items()}
    assert spans_carry(problem, names) == pytest.approx(best, rel=1e-5)


def check_figures(problem: Problem, found: SharedPlan) -> None:
    """What it says covers, fits, and follows from its own routes."""
    names = {node.name: index for index, node in enumerate(problem.nodes)}
    held = {names[one.node]: Span(one.start, one.stop) for one in found.assignment}
    assert {block for span in held.values() for block in range(span.start, span.stop)} == {
        *range(len(problem.blocks))
    }
    for node, span in held.items():
        assert problem.compute_s(Share(node, span.start, span.stop))[1] < inf, "it fits or streams"
    routes = [
        Route(way.tokens_per_s, tuple(Share(names[s.node], s.start, s.stop) for s in way.shares))
        for way in found.routes
    ]
    figures = carried(problem, held, routes)
    assert figures.tokens_per_s == pytest.approx(found.tokens_per_s)
    assert figures.busy.max() == pytest.approx(1.0)
    assert found.bottleneck_ms == found.value_ms == pytest.approx(1e3 / found.tokens_per_s)
    assert found.gap == pytest.approx(found.value_ms / found.lower_bound_ms - 1)
    for at, node in enumerate(held):
        assert figures.busy[node] == pytest.approx(found.busy[at])
        spent_ms = found.stage_ms[at] * found.node_tokens_per_s[at]
        assert spent_ms == pytest.approx(1e3 * found.busy[at])


def test_the_search_reaches_the_best_of_all_in_nine_of_ten_tiny_cases() -> None:
    reached = 0
    for at in range(CASES):
        family = list(FAMILIES)[at % len(FAMILIES)]
        problem = make(family, 3, 4, at)
        rooms = 1 + np.random.default_rng(at).integers(1, 4, 3)
        nodes = [
            replace(node, memory_bytes=int(room) * 1_700_000_000)
            for node, room in zip(problem.nodes, rooms, strict=True)
        ]
        problem = replace(problem, nodes=tuple(nodes))
        found = plan_shared(problem, budget_s=None).tokens_per_s
        reached += found >= best_of_all(problem) * (1 - 2e-3)
    assert reached >= 0.9 * CASES


# --- CASES THAT ONE SEES THROUGH ---


@pytest.mark.parametrize("family", ["lan", "homes"])
def test_a_chain_alone_carries_one_token_in_each_bottleneck(family: str) -> None:
    problem = make(family, 6, 12)
    alone = plan(problem)
    held = {one.node: Span(one.start, one.stop) for one in alone.assignment}
    assert spans_carry(problem, held) == pytest.approx(1e3 / alone.bottleneck_ms)
    shares = tuple(
        Share(int(one.node.removeprefix("n")), one.start, one.stop) for one in alone.assignment
    )
    spans = {share.node: Span(share.start, share.stop) for share in shares}
    figures = carried(problem, spans, [Route(1.0, shares)])
    assert figures.latency_s == pytest.approx(evaluate(problem, shares).latency_s)
    assert figures.busy.max() == pytest.approx(alone.bottleneck_ms / 1e3)


def test_equal_nodes_with_all_blocks_carry_as_much_together_as_each_alone() -> None:
    problem = make("lan", 3, 4)
    equal = [replace(node, speed=1.0, memory_bytes=10**12) for node in problem.nodes]
    problem = replace(
        problem,
        nodes=tuple(equal),
        bytes_per_s=np.full((4, 4), inf),
        delay_s=np.zeros((4, 4)),
    )
    found = plan_shared(problem, budget_s=None)
    assert found.tokens_per_s == pytest.approx(3 / 0.0205)
    assert found.gap == pytest.approx(0, abs=1e-6)
    assert {(one.start, one.stop) for one in found.assignment} == {(0, 4)}
    assert all("shares them with" in text and "+48.8 tokens/s" in text for text in found.reasons)


def test_nodes_that_add_nothing_are_left_out() -> None:
    problem = make("lan", 3, 4)
    nodes = [replace(node, memory_bytes=10**12) for node in problem.nodes]
    nodes[2] = replace(nodes[2], memory_bytes=1)
    found = plan_shared(replace(problem, nodes=tuple(nodes)), budget_s=None)
    assert found.reasons[-1] == "n002 is unused: 1 B hold no block"


def test_the_same_seed_gives_the_same_plan() -> None:
    problem = make("mixed", 4, 6)
    once, again = (plan_shared(problem, seed=3, budget_s=None) for _ in range(2))
    assert replace(once, seconds=0.0) == replace(again, seconds=0.0)


def test_a_plan_with_replicas_is_plain_data_with_the_keys_of_any_plan() -> None:
    data = json.loads(json.dumps(plan_shared(make("lan", 3, 4), budget_s=None).to_json()))
    assert set(plan(make("lan", 3, 4)).to_json()) < set(data)
    assert set(data["routes"][0]) == {"tokens_per_s", "shares"}


def test_many_nodes_and_little_time_are_still_a_plan_with_a_bound() -> None:
    found = plan_shared(make("homes", 40, 32), budget_s=0.2)
    assert found.tokens_per_s >= found.chain_tokens_per_s * (1 - 1e-6)
    assert found.lower_bound_ms <= found.value_ms


BROKEN: dict[str, Sequence[Share]] = {
    "in order": [Share(0, 0, 2), Share(1, 3, 4)],
    "itself": [Share(0, 0, 2), Share(0, 2, 4)],
    "holds": [Share(0, 0, 2), Share(2, 2, 4)],
}


@pytest.mark.parametrize("why", BROKEN)
def test_routes_that_cannot_be_are_refused(why: str) -> None:
    held = {0: Span(0, 4), 1: Span(2, 4)}
    with pytest.raises(ValueError, match=why):
        carried(make("lan", 3, 4), held, [Route(1.0, tuple(BROKEN[why]))])
