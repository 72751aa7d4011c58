from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import nn

from shardline.model.graph import Graph, capture


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


@pytest.fixture(scope="session")
def towers() -> nn.Module:
    cast("Any", torch).manual_seed(0)
    return Towers().eval()


@pytest.fixture(scope="session")
def graph(towers: nn.Module) -> Graph:
    words = torch.arange(12).reshape(2, 6)
    return capture(towers, (words,), {"image": torch.ones(2, 16)})
