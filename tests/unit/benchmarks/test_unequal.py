"""Unequal swarms as the planner's problem, and the figures of the report."""

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.unequal import (
    ROOMY,
    UNEQUAL,
    Costs,
    Machine,
    draw,
    problem_of,
    spread,
    summary,
    tokens_per_s,
)
from shardline.cli.planning import Sizes
from shardline.core.errors import BadInput
from shardline.partition import Share, evaluate, plan

BLOCKS = 8
SIZES = Sizes((900,) * BLOCKS, (225,) * BLOCKS, (100,) * BLOCKS, 512)
COSTS = Costs((0.5,) * BLOCKS, hop_ms=1.0, frame_bytes=1500.0, caller_ms=4.0)
ADA = Machine("ada", room=6, block_ms=2.5, latency_ms=10.0, mbit=12.0)
BEN = Machine("ben", room=5, block_ms=9.5, latency_ms=3.0)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_a_drawn_swarm_holds_the_model_with_some_choice_and_is_drawn_again(seed: int) -> None:
    machines = draw(seed, BLOCKS)
    assert machines == draw(seed, BLOCKS)
    assert 3 <= len(machines) <= 5
    assert sum(machine.room for machine in machines) >= ROOMY * BLOCKS
    assert all(machine.room < BLOCKS for machine in machines)
    assert plan(problem_of(machines, SIZES, COSTS), "memory").latency_ms < inf


def test_a_step_takes_what_was_added_and_what_everything_takes_anyway() -> None:
    problem = problem_of([ADA, BEN], SIZES, COSTS)
    figures = evaluate(problem, [Share(0, 0, 5), Share(1, 5, 8)])
    computed_ms = [5 * (0.5 + 2.5), 3 * (0.5 + 9.5)]
    assert [1e3 * work_s for work_s in figures.work_s] == pytest.approx(computed_ms)
    frame_ms = 1500 * 8 / 12e3  # over ada's cable, in and out; ben's has no limit
    links_ms = 3 * 1.0 + 10 + (10 + 3) + 3 + 2 * frame_ms
    assert 1e3 * figures.latency_s == pytest.approx(sum(computed_ms) + links_ms)


@pytest.mark.parametrize("blocks", [5, 6])
def test_a_node_has_room_for_just_so_many_blocks(blocks: int) -> None:
    problem = problem_of([ADA, BEN], SIZES, COSTS)
    figures = evaluate(problem, [Share(1, 0, blocks), Share(0, blocks, BLOCKS)])
    assert (figures.latency_s < inf) == (blocks <= BEN.room)


def test_a_swarm_that_cannot_hold_the_model_is_refused() -> None:
    with pytest.raises(BadInput):
        plan(problem_of([BEN], SIZES, COSTS))


def test_one_stream_waits_for_its_tokens_and_many_for_the_slowest_stage() -> None:
    assert tokens_per_s(bottleneck_ms=20.0, token_ms=100.0, streams=1) == pytest.approx(10.0)
    assert tokens_per_s(bottleneck_ms=20.0, token_ms=100.0, streams=4) == pytest.approx(40.0)
    assert tokens_per_s(bottleneck_ms=20.0, token_ms=100.0, streams=9) == pytest.approx(50.0)


def test_the_spread_is_of_the_pace_alone() -> None:
    assert spread([ADA, BEN]) == pytest.approx(3.8)


def test_a_cable_without_a_limit_is_plain_data_too() -> None:
    assert BEN.to_json()["mbit"] is None
    assert ADA.to_json()["mbit"] == 12.0


def _case(
    *, spread: float = UNEQUAL, predicted: float, told: float | None, slower: float
) -> dict[str, object]:
    def placed(measured: float) -> dict[str, object]:
        return {"predicted": predicted * measured, "told": told and told * measured,
                "measured": measured}  # fmt: skip

    return {"swarm": 0, "machines": [], "spread": spread, "plan": placed(10.0),
            "memory": placed(10.0 / slower), "ratio": slower}  # fmt: skip


def test_the_summary_takes_the_middle_error_and_the_unequal_swarms_apart() -> None:
    cases = [
        _case(predicted=1.1, told=None, slower=2.0),
        _case(predicted=0.8, told=1.3, slower=1.2),
        _case(predicted=1.02, told=1.5, slower=1.0, spread=1.0),
    ]
    rows = {what: (shown, goal) for what, shown, goal in summary(cases)}
    assert rows["error of the prediction from what was added, 6 placements"] == (
        "10.0% median, 20.0% worst",
        "at most 15% median",
    )
    told, goal = rows["error of the prediction from what nodes tell, 4 placements"]
    assert (told, goal) == ("40.0% median, 50.0% worst", "")
    ratios = [
        (shown, goal) for what, (shown, goal) in rows.items() if what.startswith("the plan's")
    ]
    assert ratios == [
        ("1.20 median, 1.00 to 2.00, 1 of 3 reach it", ""),
        ("1.60 median, 1.20 to 2.00, 1 of 2 reach it", "at least 1.3"),
    ]


def test_without_what_nodes_tell_there_is_no_line_of_it() -> None:
    assert not any(
        "tell" in what for what, _, _ in summary([_case(predicted=1.1, told=None, slower=2.0)])
    )
