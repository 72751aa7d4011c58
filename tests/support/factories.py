"""A person's own file with modules to inspect, run and cut, as FILE.py:FACTORY."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MODULE", "write_factories"]

MODULE = """
import torch
from torch import nn
import beside

print("a person may print")


class Twins(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, beside.WIDE), nn.Linear(beside.WIDE, 8)

    def forward(self, x, *, skip):
        return {"y": self.two(torch.relu(self.one(x))) + skip}


class Choosy(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


def twins():
    x = torch.ones(4, 8)
    return Twins(), (x,), {"skip": x}


def choosy():
    return Choosy(), (torch.ones(3),)


def nothing():
    return torch.ones(3)


def broken():
    return 1 / 0
"""


def write_factories(folder: Path) -> Path:
    """The file; beside it one that it imports, and `wrong.py`, which is no Python."""
    (folder / "beside.py").write_text("WIDE = 16\n")
    (folder / "wrong.py").write_text("x = 1\ndef broken(:\n")
    file = folder / "mine.py"
    file.write_text(MODULE)
    return file
