"""What goes from stage to stage is read with bounds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from shardline.codec import Marker, pack, unpack
from shardline.core.errors import PeerFault
from shardline.model import Crossing, StageCrossing
from shardline.model.graph.program import NAME_MAX, VALUES_MAX

HIDDEN = torch.randn(2, 3)
STEP = StageCrossing(2, {"hidden": HIDDEN, "mask": torch.ones(2, 3).bool(), "words.1": 3})


def test_a_step_comes_back_from_bytes_as_it_was() -> None:
    tree: Any = unpack(pack(STEP.to_tree()))
    read = StageCrossing.from_tree(tree)
    assert read.start == 2
    assert torch.equal(read.values["hidden"], HIDDEN)
    assert (read.values["mask"].dtype, read.values["words.1"]) == (torch.bool, 3)


def test_only_floats_may_be_written_coarsely() -> None:
    assert [id(tensor) for tensor in STEP.carried] == [id(HIDDEN)]


@pytest.mark.parametrize(
    "tree",
    [
        None, [], {}, {"start": 0}, {"start": 0, "values": {}, "more": 1},
        {"start": 0, "values": ()}, {"start": -1, "values": {}}, {"start": True, "values": {}},
        {"start": 4096, "values": {}},
        {"start": "0", "values": {}}, {"start": 0, "values": {"x": "text"}},
        {"start": 0, "values": {"x": None}}, {"start": 0, "values": {"x": [HIDDEN]}},
        {"start": 0, "values": {"x": Marker("cache")}},
        {"start": 0, "values": {"x" * (NAME_MAX + 1): 1}},
        {"start": 0, "values": {str(number): 1 for number in range(VALUES_MAX + 1)}},
        Crossing(0, (torch.ones(1, 1, 4),), (), ()).to_tree(),
    ],
)  # fmt: skip
def test_anything_else_is_a_peers_fault(tree: Any) -> None:
    with pytest.raises(PeerFault):
        StageCrossing.from_tree(tree)


def test_a_chains_step_is_told_from_a_graphs() -> None:
    with pytest.raises(PeerFault):
        Crossing.from_tree(STEP.to_tree())
