"""Named parts of a module: how they are called, and what stands in their place."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import nn

from shardline.client import SwarmGraph, calls_of, on_swarm
from shardline.core.errors import BadInput
from shardline.model import Stage, Values, capture, run_stages


class Loops(nn.Module):
    """Decides by values between parts; one part is called more than once."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.spare = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while x.abs().max() > 0.5:
            x = self.first(x) / 2
        return x


class Here:
    """What a SwarmGraph does, in this process; counts the calls."""

    def __init__(self, part: nn.Module, x: torch.Tensor) -> None:
        self.graph, self.calls = capture(part, (x,)), 0
        self.stage = Stage.of(self.graph.program, self.graph.tensors, torch.device("cpu"))

    def values(self, *args: Any, **kwargs: Any) -> Values:
        self.calls += 1
        return run_stages([self.stage], self.graph.signature.bind(*args, **kwargs))


@pytest.fixture
def module() -> nn.Module:
    cast("Any", torch).manual_seed(0)
    return Loops().eval()


def test_a_part_is_asked_elsewhere_and_is_back_afterwards(module: nn.Module) -> None:
    x = torch.full((2, 4), 3.0)
    first = module.get_submodule("first")
    (call,) = calls_of(module, ["first"], (x,), {}).values()
    assert call.part is first
    here = Here(call.part, *call.args)
    with torch.no_grad():
        expected = module(x)
        with on_swarm(module, {"first": (here.graph, cast("SwarmGraph", here))}):
            assert torch.equal(module(x), expected)
    assert here.calls > 0
    assert module.get_submodule("first") is first


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["second"], "there is no part second: parts there are first, spare"),
        (["first.7"], "there is no part first.7: parts there are 0, 1"),
        (["first", "first.0"], r"first\.0 is in another part"),
        (["spare"], "part spare is not called"),
    ],
)
def test_what_is_no_part_is_named(module: nn.Module, names: list[str], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        calls_of(module, names, (torch.ones(2, 4),), {})
