from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from shardline.core.errors import BadInput, Unsupported
from shardline.model.graph import capture

if TYPE_CHECKING:
    from shardline.model.graph import Graph

Tensor = torch.Tensor


class Layer(nn.Module):
    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("steps", torch.zeros(1))


class Branching(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if y.sum() > 0:  # the line
            y = y + 1
        return y


class Counting(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[: int(x.sum().item())])  # the line


class Elsewhere(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return cast("Any", torch).from_numpy(np.sin(self.layer(x).numpy()))  # the line


class Drawing(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + torch.randn(4)  # the line


class Remembering(Layer):
    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        return self.layer(x) * self.steps


class Box:
    def __init__(self, x: Tensor) -> None:
        self.x = x


class Boxing(Layer):
    def forward(self, x: Tensor) -> Box:
        return Box(self.layer(x))


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = Branching()

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x)


class Halving(Layer):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] % 2:
            raise ValueError("only pairs")
        return self.layer(x)


class Filling(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + torch.empty_like(x).fill_(2.0) + torch.empty(3, 1).fill_(1.0)


class Alone(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.shape[0] == 1 else self.layer(x)


EXAMPLE = torch.arange(12.0).reshape(3, 4)


@pytest.mark.parametrize("kind", [Branching, Counting, Elsewhere, Drawing, Nested])
def test_the_line_that_stops_capturing_is_named_with_two_ways_out(
    kind: type[nn.Module], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Unsupported) as caught:
        capture(kind(), (EXAMPLE,))
    said = str(caught.value)
    lines = Path(__file__).read_text().splitlines()
    named = [at for at in range(1, len(lines) + 1) if f"{__file__}:{at}, in forward" in said]
    assert len(named) == 1, said
    assert "# the line" in lines[named[0] - 1]
    assert "Change that line" in said
    assert "name the parts that can be captured" in said
    assert "\n" not in said
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("kind", "why"), [(Remembering, "buffer steps"), (Boxing, "Box")])
def test_what_no_line_stops_is_said(kind: type[nn.Module], why: str) -> None:
    with pytest.raises(Unsupported, match=why):
        capture(kind(), (EXAMPLE,))


def test_memory_that_is_asked_for_as_it_is_becomes_zeros() -> None:
    graph = capture(Filling(), (EXAMPLE,))
    assert not any("empty" in op.target for op in graph.program.ops)


def test_a_module_that_fails_by_itself_is_told_apart() -> None:
    with pytest.raises(BadInput, match=r"Linear fails on these inputs: RuntimeError") as caught:
        capture(nn.Linear(5, 5), (EXAMPLE,))
    assert not isinstance(caught.value, Unsupported)


def test_open_sizes_are_named_and_what_is_taken_for_granted_is_checked(graph: Graph) -> None:
    assert graph.sizes == ("words.0", "words.1", "image.0")
    assert graph.why_fixed == ""
    words = torch.zeros(3, 9, dtype=torch.int64)
    given = graph.signature.bind(words, image=torch.ones(3, 16))
    assert given["words.1"] == 9
    with pytest.raises(BadInput, match=r"sizes with image\.0 == words\.0"):
        graph.signature.bind(words, image=torch.ones(2, 16))


def test_sizes_can_be_fixed(towers: nn.Module) -> None:
    words = torch.zeros(2, 6, dtype=torch.int64)
    graph = capture(towers, (words, torch.ones(2, 16)), dynamic=False)
    assert graph.sizes == ()
    with pytest.raises(BadInput, match=r"takes int64 \(2, 6\)"):
        graph.signature.bind(torch.zeros(3, 6, dtype=torch.int64), torch.ones(3, 16))


def test_an_example_of_one_leaves_the_batch_open() -> None:
    graph = capture(Layer().layer, (EXAMPLE[:1],))
    assert graph.sizes == ("input.0",)
    graph.signature.bind(EXAMPLE)


@pytest.mark.parametrize(("example", "other"), [(1, 3), (3, 1)])
def test_what_is_done_otherwise_with_a_batch_of_one_is_not_mixed_up(
    example: int, other: int
) -> None:
    graph = capture(Alone(), (EXAMPLE[:example],))
    graph.signature.bind(EXAMPLE[:example])
    with pytest.raises(BadInput, match="Alone"):
        graph.signature.bind(EXAMPLE[:other])


def test_a_condition_on_sizes_is_kept() -> None:
    graph = capture(Halving(), (torch.ones(6, 4),))
    if graph.sizes:
        graph.signature.bind(torch.ones(8, 4))
    with pytest.raises(BadInput, match="Halving"):
        graph.signature.bind(torch.ones(7, 4))


def test_a_call_that_was_not_captured_is_told(graph: Graph) -> None:
    words, image = torch.zeros(2, 6, dtype=torch.int64), torch.ones(2, 16)
    bind = graph.signature.bind
    with pytest.raises(BadInput, match=r"Towers takes 1 values in its inputs, place 0, not 2"):
        bind(words, image)
    with pytest.raises(BadInput, match=r"takes image in .*, not picture"):
        bind(words, picture=image)
    with pytest.raises(BadInput, match=r"takes float32 \(any, 16\) as image, not float64"):
        bind(words, image=image.double())
    with pytest.raises(BadInput, match="not a str"):
        bind(words, image="image")


def test_the_module_is_left_as_it_was() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5).eval(), nn.BatchNorm1d(4))
    capture(module, (EXAMPLE,))
    assert [part.training for part in module.modules()] == [True, True, False, True]
    assert all(parameter.requires_grad for parameter in module.parameters())
