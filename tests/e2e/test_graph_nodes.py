"""A graph's stages on real nodes: the module's bits, a step too large, a death under a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from shardline.cli.local import local_swarm
from shardline.client import Mended
from shardline.client.graph import GraphRunner
from shardline.core.errors import ShardlineError
from shardline.core.spans import Span
from tests.support.graphs import STAGES, Towers, cut_towers, largest, some, towers

if TYPE_CHECKING:
    from collections.abc import Generator

    from shardline.cli.local import LocalSwarm
    from shardline.model import GraphPlan

SPANS = [Span(0, 1), Span(1, STAGES)]
TIGHT = ["--memory", "3MiB"]


@pytest.fixture(scope="module")
def module() -> Towers:
    return towers()


@pytest.fixture(scope="module")
def plan(module: Towers, tmp_path_factory: pytest.TempPathFactory) -> GraphPlan:
    return cut_towers(module, tmp_path_factory.mktemp("towers"))


@pytest.fixture(scope="module")
def local(plan: GraphPlan) -> Generator[LocalSwarm]:
    """ada has the first stage, ben the others, and little memory."""
    own = [[], TIGHT]
    with local_swarm(plan.folder, SPANS, dtype=None, own_options=own) as local:
        yield local


def differs(model: Any, module: Towers, rows: int, tokens: int) -> float:
    """The largest difference of what the nodes and the module give."""
    with torch.no_grad():
        return largest(model(**some(rows, tokens)), module(**some(rows, tokens)))


def test_nodes_give_the_modules_bits_for_any_sizes(
    local: LocalSwarm, plan: GraphPlan, module: Towers
) -> None:
    model = local.swarm.model_now(str(plan.folder))
    assert differs(model, module, 2, 6) == differs(model, module, 5, 3) == 0
    records = local.swarm.nodes_now()
    assert {(record.dtype, record.fingerprint) for record in records} == {
        ("graph", plan.fingerprint)
    }
    assert all(record.block_steps_per_s > 0 for record in records)


def test_a_step_that_would_take_too_much_memory_ends_and_its_node_lives(
    local: LocalSwarm, plan: GraphPlan, module: Towers
) -> None:
    model = local.swarm.model_now(str(plan.folder))
    with pytest.raises(ShardlineError, match="smaller batches"):
        model(**some(4_000))
    assert differs(model, module, 2, 6) == 0


def test_a_call_goes_on_when_a_node_dies_under_it(
    local: LocalSwarm, plan: GraphPlan, module: Towers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session has seats on both when one dies, and nobody else holds those stages at first."""
    told: list[Mended | str] = []
    model = local.swarm.model_now(str(plan.folder), tell=told.append)
    step: Any = getattr(GraphRunner, "_steps")  # noqa: B009 - where a session has its seats

    def dies_before(*args: Any) -> Any:
        if "ben" in local.processes:
            local.kill("ben")
            local.replace("ben", "cleo")
        return step(*args)

    monkeypatch.setattr(GraphRunner, "_steps", dies_before)
    assert differs(model, module, 3, 4) == 0
    assert any(isinstance(news, Mended) for news in told)
