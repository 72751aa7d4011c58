"""What modules hand to each other is seen, and who else reads it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from shardline.model.watching import Watch, joints_of, lists_of, read_elsewhere

META = torch.device("meta")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4, device=META)

    def forward(self, x: torch.Tensor, more: Any = None) -> torch.Tensor:
        return self.layer(x if more is None else x + more[0])


class Two(nn.Module):
    """Two lists of blocks; what a block in the middle of one gives may be read elsewhere."""

    def __init__(self, reads: str) -> None:
        super().__init__()
        self.one = nn.ModuleList([Block() for _ in range(3)])
        self.two = nn.ModuleList([Block() for _ in range(3)])
        self.reads = reads

    def forward(self, x: torch.Tensor) -> Any:
        first = self.one[1](self.one[0](x))
        x = self.one[2](first)
        second = self.two[0](x, [first] if self.reads == "first by a block" else None)
        x = self.two[2](self.two[1](second))
        if self.reads == "second by the ends":
            x = torch.cat([x, second])
        return (x, first) if self.reads == "first by the caller" else x


def seen(model: Two) -> tuple[Watch, list[list[nn.Module]]]:
    chains = list(lists_of(model).values())
    watch = Watch(model, {block for chain in chains for block in chain})
    with watch.open():
        model(torch.ones(2, 4, device=META))
    return watch, chains


@pytest.mark.parametrize(
    ("reads", "guilty"),
    [
        ("nothing", None),
        ("first by a block", 0),
        ("first by the caller", 0),
        ("second by the ends", 1),
    ],
)
def test_who_is_read_elsewhere_is_known_in_one_forward(reads: str, guilty: int | None) -> None:
    model = Two(reads)
    watch, chains = seen(model)
    assert all(joints_of([watch.calls[block] for block in chain]) for chain in chains)
    forwards: list[str] = []

    def run() -> Any:
        forwards.append(reads)
        return model(torch.ones(2, 4, device=META))

    assert read_elsewhere(chains, watch, run) == guilty
    assert len(forwards) == 1
    assert tuple(model.two[2](torch.ones(2, 4, device=META)).shape) == (2, 4), "it is as it was"


def test_a_list_that_is_no_chain_runs_and_may_not_read_either() -> None:
    model = Two("first by a block")
    watch, (one, _) = seen(model)
    assert read_elsewhere([one], watch, lambda: model(torch.ones(2, 4, device=META))) == 0


def test_only_the_last_forward_is_noted() -> None:
    model = Two("nothing")
    watch = Watch(model, set(model.one))
    with watch.open():
        for rows in (2, 3):
            model(torch.ones(rows, 4, device=META))
    model(torch.ones(5, 4, device=META))
    (call,) = watch.calls[model.one[0]]
    assert tuple(call.inputs[0][0].shape) == (3, 4)
