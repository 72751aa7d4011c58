"""Stages as an engine runs them: the module's very bits, and never more memory than there is."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from shardline.codec import pack, unpack
from shardline.core.errors import CacheFull, PeerFault, StepFailed
from shardline.core.ids import Seat, SessionId
from shardline.core.spans import Span
from shardline.model import (
    STEP_TOKENS,
    GraphPlan,
    LoadedStages,
    Returned,
    StageCrossing,
    capture,
    load_stages,
    place_evenly,
    save_graph,
    stage_rate,
)
from shardline.runtime import SpanEngine
from tests.support.graphs import STAGES, largest, some

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")
ONE, TWO = (Seat(SessionId(digit * 32), 0) for digit in "12")


@pytest.fixture(scope="module")
def whole(plan: GraphPlan) -> LoadedStages:
    return load_stages(plan, Span(0, STAGES), CPU)


def bound(plan: GraphPlan, rows: int = 2, tokens: int = 6) -> StageCrossing:
    return plan.crossing(plan.signature().bind(**some(rows, tokens)))


@pytest.mark.parametrize("cuts", [(0, 3), (0, 1, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("sizes", [(2, 6), (1, 6), (5, 3)])
def test_stages_joined_by_bytes_give_the_modules_bits(
    towers: nn.Module, plan: GraphPlan, cuts: tuple[int, ...], sizes: tuple[int, int]
) -> None:
    step: StageCrossing | Returned = bound(plan, *sizes)
    for start, stop in pairwise(cuts):
        came: Any = unpack([bytes(part) for part in pack(step.to_tree())])
        step = load_stages(plan, Span(start, stop), CPU).run(StageCrossing.from_tree(came))
    assert isinstance(step, Returned)
    given = plan.signature().bind(**some(*sizes))
    found = plan.signature().rebuild(given | plan.results(step))
    with torch.no_grad():
        assert largest(found, towers(**some(*sizes))) == 0


def test_what_no_later_stage_needs_is_left_behind(plan: GraphPlan, whole: LoadedStages) -> None:
    onward = whole.part(Span(0, 1)).run(bound(plan))
    assert isinstance(onward, StageCrossing)
    assert (onward.start, set(onward.values)) == (1, set(plan.needs(1)))
    assert "words" not in onward.values


def test_values_that_are_not_the_graphs_are_a_peers_fault(
    plan: GraphPlan, whole: LoadedStages
) -> None:
    step = bound(plan)
    name = next(name for name, value in step.values.items() if isinstance(value, torch.Tensor))
    wrong = [
        StageCrossing(1, step.values),
        StageCrossing(0, {}),
        StageCrossing(0, step.values | {"more": torch.ones(1)}),
        StageCrossing(0, step.values | {name: 3}),
        StageCrossing(0, step.values | {name: step.values[name].to(torch.int8)}),
        StageCrossing(0, step.values | {name: step.values[name][None]}),
    ]
    for one in wrong:
        with pytest.raises(PeerFault):
            whole.run(one)


def test_an_op_that_fails_is_named_and_spoils_nothing(plan: GraphPlan, whole: LoadedStages) -> None:
    step = bound(plan)
    beyond = StageCrossing(0, step.values | {"words": step.values["words"] + 30})
    with pytest.raises(StepFailed, match=r"stage 0: embedding \(aten"):
        whole.run(beyond)
    assert isinstance(whole.run(step), Returned)


def test_on_shapes_a_run_takes_what_it_takes_with_values(whole: LoadedStages) -> None:
    values = bound(whole.plan, 3, 7).values
    for held in whole.stages.values():
        asked = {value.name: values[value.name] for value in held.stage.program.inputs}
        assert held.needs.of(asked) == held.stage.peak_bytes(asked) > 0
        values |= held.stage.run(asked)


def test_a_step_that_would_take_too_much_is_refused_before_it_runs(
    plan: GraphPlan, whole: LoadedStages
) -> None:
    room_bytes = max(note.peak_bytes for note in plan.stages)
    tight = LoadedStages(plan, whole.span, whole.stages, room_bytes)
    assert isinstance(tight.run(bound(plan)), Returned), "the example's own"
    with pytest.raises(CacheFull, match=r"stage \d needs .* smaller batches"):
        tight.run(bound(plan, 40))
    assert isinstance(tight.run(bound(plan)), Returned)


def test_a_length_that_is_only_told_cannot_take_memory_either(
    plan: GraphPlan, whole: LoadedStages
) -> None:
    """Sizes come as numbers, which anybody can make up."""
    roomy = LoadedStages(plan, whole.span, whole.stages, 2**30)
    step = bound(plan)
    with pytest.raises((CacheFull, StepFailed)):
        roomy.run(StageCrossing(0, step.values | {"words.1": 2**40}))


class Picks(nn.Module):
    """How much it makes depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nonzero(torch.relu(self.layer(x))).float().sum() / x.shape[0]


def test_what_cannot_be_followed_on_shapes_is_bound_by_how_large_it_is(tmp_path: Path) -> None:
    graph = capture(Picks().eval(), (torch.ones(4, 8),))
    plan = save_graph(graph, place_evenly(graph, 1), tmp_path)
    held = load_stages(plan, Span(0, 1), CPU).stages
    loaded = LoadedStages(plan, Span(0, 1), held, 2 * plan.stages[0].peak_bytes)

    def step(rows: int) -> StageCrossing:
        return plan.crossing(plan.signature().bind(torch.ones(rows, 8)))

    assert isinstance(loaded.run(step(8)), Returned)
    with pytest.raises(CacheFull):
        loaded.run(step(9))
    (size,) = (name for name, value in step(4).values.items() if isinstance(value, int))
    with pytest.raises(PeerFault, match="does not fit"):
        loaded.run(StageCrossing(0, step(4).values | {size: torch.ones(4)}))


def test_its_speed_is_measured_with_made_up_values(whole: LoadedStages) -> None:
    assert stage_rate(whole.part(Span(1, 2)), budget_s=0.0) > 0


def test_an_engine_runs_sessions_of_one_step(plan: GraphPlan, whole: LoadedStages) -> None:
    engine = SpanEngine(whole, cache_tokens=3 * STEP_TOKENS)
    for seat in (ONE, TWO):
        engine.open(seat, whole.span, rows=1, tokens=STEP_TOKENS, now_s=0.0)
    good, step = bound(plan), bound(plan)
    bad = StageCrossing(0, step.values | {"words": step.values["words"] + 30})
    found = engine.steps([(ONE, bad), (TWO, good)], now_s=1.0)
    assert isinstance(found[0], StepFailed)
    assert isinstance(found[1], Returned)
    engine.check_integrity()
    with pytest.raises(CacheFull):
        engine.step(TWO, good, now_s=2.0)
    for seat in (ONE, TWO):
        engine.close(seat)
    assert engine.report().cache_tokens_free == 3 * STEP_TOKENS
    engine.hold(whole.part(Span(1, 2)), cache_tokens=STEP_TOKENS)
    engine.check_integrity()
