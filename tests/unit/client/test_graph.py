"""A graph on the swarm as its caller has it: parts, how they are joined, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from torch import nn

from shardline.client.graph import GraphRunner, SwarmGraph
from shardline.codec import pack, unpack
from shardline.core.errors import BadInput, PeerFault, Unsupported
from shardline.core.spans import Span
from shardline.model import (
    GraphPlan,
    Returned,
    Values,
    capture,
    load_stages,
    place_evenly,
    save_graph,
    with_rows,
)

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")


class Pairs(nn.Module):
    """Two inputs, two outputs and a constant; rows are treated apart unless it is told to mix."""

    def __init__(self, *, mix: bool = False) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 6)
        self.mix = mix

    def forward(self, x: torch.Tensor, *, skip: torch.Tensor) -> dict[str, Any]:
        hidden = torch.tanh(self.one(x))
        if self.mix:
            hidden = hidden - hidden.mean(0)
        return {"y": self.two(hidden) + skip, "parts": (hidden, self.two.bias), "x": x}


class Here(GraphRunner):
    """Runs all stages in this process, by bytes; notes the rows of what it is given."""

    def __init__(self, plan: GraphPlan) -> None:
        self.plan, self.rows = plan, list[int]()
        self.chain, self.steps = (), []
        self.stages = load_stages(plan, Span(0, plan.blocks), CPU)

    def run(self, given: Values) -> Values:
        self.rows.append(len(given["x"]))
        returned = self.stages.run(self.plan.crossing(given))
        assert isinstance(returned, Returned)
        tree = unpack(pack(returned.to_tree()))
        return self.plan.results(Returned.from_tree(tree))


def given(rows: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    luck = torch.Generator().manual_seed(rows)
    return torch.randn(rows, 6, generator=luck), {"skip": torch.randn(rows, 6, generator=luck)}


def on_swarm(module: nn.Module, folder: Path, *, dynamic: bool = True) -> tuple[SwarmGraph, Here]:
    x, kwargs = given(2)
    graph = capture(module.eval(), (x,), kwargs, dynamic=dynamic)
    plan = save_graph(with_rows(graph, (x,), kwargs), place_evenly(graph, 2), folder)
    runner = Here(plan)
    return SwarmGraph(plan, plan.signature(), runner), runner


@pytest.fixture
def module() -> nn.Module:
    cast("Any", torch).manual_seed(0)
    return Pairs().eval()


def test_a_batch_goes_in_parts_and_comes_back_whole(module: nn.Module, tmp_path: Path) -> None:
    model, runner = on_swarm(module, tmp_path)
    x, kwargs = given(50)
    ours = model(x, **kwargs)
    with torch.no_grad():
        theirs = module(x, **kwargs)
    assert sorted(runner.rows) == [8, 8, 8, 8, 9, 9]
    assert model.passed is not None
    assert sum(model.passed.rows) == 50
    assert torch.allclose(ours["y"], theirs["y"], atol=1e-6)
    assert torch.allclose(ours["parts"][0], theirs["parts"][0], atol=1e-6)
    assert torch.equal(ours["parts"][1], theirs["parts"][1])
    assert torch.equal(ours["x"], x)


def test_few_rows_go_whole_and_give_the_modules_bits(module: nn.Module, tmp_path: Path) -> None:
    model, runner = on_swarm(module, tmp_path)
    x, kwargs = given(7)
    with torch.no_grad():
        assert torch.equal(model(x, **kwargs)["y"], module(x, **kwargs)["y"])
    assert runner.rows == [7]


def test_a_person_may_say_how_many_rows_travel_together(module: nn.Module, tmp_path: Path) -> None:
    model, runner = on_swarm(module, tmp_path)
    x, kwargs = given(7)
    model.part_rows = 3
    model(x, **kwargs)
    assert sorted(runner.rows) == [2, 2, 3]


def test_rows_that_are_mixed_go_whole(tmp_path: Path) -> None:
    module = Pairs(mix=True).eval()
    model, runner = on_swarm(module, tmp_path)
    model.part_rows = 2
    x, kwargs = given(9)
    with torch.no_grad():
        assert torch.equal(model(x, **kwargs)["y"], module(x, **kwargs)["y"])
    assert runner.rows == [9]


def test_a_size_that_was_captured_fixed_goes_whole_or_not_at_all(
    module: nn.Module, tmp_path: Path
) -> None:
    model, runner = on_swarm(module, tmp_path, dynamic=False)
    model.part_rows = 1
    x, kwargs = given(2)
    model(x, **kwargs)
    assert runner.rows == [2]
    x, kwargs = given(4)
    with pytest.raises(BadInput, match="not float32"):
        model(x, **kwargs)


def test_there_is_nothing_to_generate_with(module: nn.Module, tmp_path: Path) -> None:
    model, _ = on_swarm(module, tmp_path)
    assert model.dtype is torch.float32
    with pytest.raises(Unsupported, match="Pairs goes as a graph"):
        model.generate(torch.ones(1, 2))


def test_a_result_for_other_rows_is_a_peers_fault(module: nn.Module, tmp_path: Path) -> None:
    model, _ = on_swarm(module, tmp_path)
    nothing: Any = None
    runner = GraphRunner(model.graph, model.signature, nothing, nothing, nothing)
    x, kwargs = given(5)
    sent = model.graph.crossing(model.signature.bind(x, **kwargs))
    honest = Here(model.graph).stages.run(sent)
    assert isinstance(honest, Returned)
    read = cast("Any", runner)._read  # noqa: SLF001
    assert set(read(sent, pack(honest.to_tree())).output) == set(model.graph.needs(2))
    output = {name: value[:3] for name, value in cast("dict[str, Any]", honest.output).items()}
    with pytest.raises(PeerFault, match="came back for 5 rows"):
        read(sent, pack(Returned(output).to_tree()))
