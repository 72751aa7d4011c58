"""A small module that goes as a graph, and the same cut in a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from shardline.model import Graph, GraphPlan, capture, place_evenly, save_graph

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["STAGES", "Towers", "captured", "cut_towers", "largest", "some", "towers"]

STAGES = 3


class Towers(nn.Module):
    """Two inputs, a tied weight, a skip; sizes stay open."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30, 16)
        self.one = nn.Linear(16, 16)
        self.two = nn.Linear(16, 16)
        self.head = nn.Linear(16, 30, bias=False)
        self.head.weight = self.words.weight

    def forward(self, words: torch.Tensor, image: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.words(words) + torch.arange(words.shape[1])[:, None]
        y = torch.tanh(self.two(image))[:, None]
        x = x + torch.relu(self.one(x)) * y
        return {"scores": self.head(x), "image": y}


def towers(seed: int = 0) -> Towers:
    """With weights of this seed."""
    cast("Any", torch).manual_seed(seed)
    return Towers().eval()


def some(rows: int = 2, tokens: int = 6) -> dict[str, torch.Tensor]:
    """Inputs of these sizes."""
    luck = torch.Generator().manual_seed(rows * 100 + tokens)
    words = torch.randint(0, 30, (rows, tokens), generator=luck)
    return {"words": words, "image": torch.randn(rows, 16, generator=luck)}


def captured(module: Towers) -> Graph:
    """Called by keywords."""
    return capture(module, (), some())


def cut_towers(module: Towers, folder: Path) -> GraphPlan:
    """In STAGES stages."""
    graph = captured(module)
    return save_graph(graph, place_evenly(graph, STAGES), folder)


def largest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of two of its results; no number if one is none."""
    assert {key: value.shape for key, value in one.items()} == {
        key: value.shape for key, value in other.items()
    }
    return float(torch.stack([(one[key] - other[key]).abs().max() for key in one]).max())
