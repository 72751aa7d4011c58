"""What a node makes of what it is told to serve: a checkpoint, or the folder of a cut graph."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import torch

from shardline.core.errors import (
    CacheFull,
    CorruptWeights,
    PeerFault,
    SpanTooLarge,
    Unsupported,
)
from shardline.core.ids import Seat, SessionId
from shardline.core.spans import Span
from shardline.model import STEP_TOKENS, Crossing, Returned, StageCrossing, kind_named
from shardline.model.caches import CACHES
from shardline.model.crossing import Call
from shardline.node import Budget
from shardline.node.holding import Holding
from shardline.node.models import ChainModel, GraphModel, Held, open_model
from tests.parity.zoo import make, named
from tests.support.graphs import STAGES, cut_towers, some, towers

if TYPE_CHECKING:
    from collections.abc import Generator
    from concurrent.futures import Executor
    from pathlib import Path

    from shardline.model import GraphPlan

CPU = torch.device("cpu")
ROOMY = 2**30
WHOLE = Span(0, STAGES)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> GraphPlan:
    return cut_towers(towers(), tmp_path_factory.mktemp("towers"))


@pytest.fixture
def thread() -> Generator[Executor]:
    with ThreadPoolExecutor(1) as one:
        yield one


def step(plan: GraphPlan, rows: int = 2) -> StageCrossing:
    return plan.crossing(plan.signature().bind(**some(rows)))


def test_a_folder_with_a_graph_is_served_in_stages_and_a_checkpoint_in_blocks(
    plan: GraphPlan, tmp_path: Path
) -> None:
    make(named("llama"), tmp_path)
    stages = open_model(str(plan.folder), Held(), CPU)
    blocks = open_model(str(tmp_path), Held(dtype="float32"), CPU)
    assert isinstance(stages, GraphModel)
    assert isinstance(blocks, ChainModel)
    assert (stages.name, stages.terms, len(stages.block_bytes)) == ("Towers", "graph", STAGES)
    assert (blocks.terms, stages.wires("int8").coarsest) == ("float32", "int8")
    tree = step(plan).to_tree()
    assert isinstance(stages.wires("raw").read(tree), StageCrossing)
    states = torch.zeros(1, 2, blocks.plan.hidden_size)
    calls, order = (Call((), {}),), (0,) * blocks.plan.blocks
    read = blocks.wires("raw").read
    assert isinstance(read(Crossing(0, (states,), calls, order).to_tree()), Crossing)
    for wrong in (Crossing(0, (states[0],), calls, order), Crossing(99, (states,), calls, order)):
        with pytest.raises(PeerFault, match="rank"):
            read(wrong.to_tree())


@pytest.mark.parametrize(
    "held",
    [Held(dtype="float32"), Held(weights=kind_named("int8")), Held(cache=CACHES["int8"])],
    ids=["dtype", "weights", "cache"],
)
def test_how_blocks_are_held_cannot_be_said_of_stages(plan: GraphPlan, held: Held) -> None:
    with pytest.raises(Unsupported, match="--dtype, --weights and --cache are for checkpoints"):
        open_model(str(plan.folder), held, CPU)


def test_the_folder_of_quantised_weights_is_no_matter(plan: GraphPlan, tmp_path: Path) -> None:
    assert isinstance(open_model(str(plan.folder), Held(weights_folder=tmp_path), CPU), GraphModel)


def test_stages_need_room_for_their_weights_and_two_steps(plan: GraphPlan) -> None:
    model = GraphModel(plan)
    weights_bytes = sum(note.parameter_bytes for note in plan.stages)
    two_steps = 2 * STEP_TOKENS * model.token_bytes(WHOLE)
    enough = Budget(model, weights_bytes + two_steps)
    assert (enough.fits(), enough.cache_tokens(WHOLE)) == (STAGES, 2 * STEP_TOKENS)
    enough.check(WHOLE)
    with pytest.raises(SpanTooLarge, match=f"of {STAGES} blocks fit"):
        Budget(model, weights_bytes + two_steps - 1).check(WHOLE)


@pytest.mark.anyio
async def test_stages_are_read_run_and_let_go(plan: GraphPlan, thread: Executor) -> None:
    model = GraphModel(plan)
    holding = Holding(Budget(model, ROOMY), CPU, thread)
    assert await holding.try_out() > 0
    await holding.fetch(WHOLE)
    await holding.serve(WHOLE)
    assert await holding.measure(0.0) > 0
    seat = Seat(SessionId("1" * 32), 0)
    holding.engine.open(seat, WHOLE, rows=1, tokens=STEP_TOKENS, now_s=0.0)
    found = holding.engine.step(seat, step(plan), now_s=0.0)
    assert isinstance(found, Returned)
    assert holding.fullness()["sessions"] == 1
    used_bytes = holding.fullness()["memory_used_bytes"]
    await holding.keep(Span(1, 2))
    assert used_bytes > holding.fullness()["memory_used_bytes"]


@pytest.mark.anyio
async def test_a_step_may_take_what_the_weights_leave(plan: GraphPlan, thread: Executor) -> None:
    model = GraphModel(plan)
    tight = Budget(model, sum(model.block_bytes) + 2 * STEP_TOKENS * model.token_bytes(WHOLE))
    holding = Holding(tight, CPU, thread)
    await holding.fetch(WHOLE)
    await holding.serve(WHOLE)
    seat = Seat(SessionId("1" * 32), 0)
    holding.engine.open(seat, WHOLE, rows=1, tokens=STEP_TOKENS, now_s=0.0)
    with pytest.raises(CacheFull, match="smaller batches"):
        holding.engine.step(seat, step(plan, rows=4000), now_s=0.0)


@pytest.mark.anyio
async def test_a_stage_that_is_not_here_is_named_and_costs_no_speed(
    plan: GraphPlan, tmp_path: Path, thread: Executor
) -> None:
    for file in ("graph.json", "stage-1"):
        (tmp_path / file).symlink_to(plan.folder / file)
    model = open_model(str(tmp_path), Held(), CPU)
    holding = Holding(Budget(model, ROOMY), CPU, thread)
    assert await holding.try_out() == 0.0
    await holding.fetch(Span(1, 2))
    with pytest.raises(CorruptWeights, match="stage-2"):
        await holding.fetch(Span(1, 3))
