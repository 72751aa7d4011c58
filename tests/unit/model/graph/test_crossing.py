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


def test_a_steps_tensors_lie_as_they_did_where_they_came_from() -> None:
    picture = torch.randn(2, 5, 6, 8).permute(0, 3, 1, 2)
    values = {"count": 3, "hidden": HIDDEN, "part": picture[:, :4], "picture": picture}
    tree: Any = unpack(pack(StageCrossing(1, values).to_tree()))
    read = StageCrossing.from_tree(tree).values
    assert list(read) == list(values)
    assert read["part"].is_contiguous(memory_format=torch.channels_last)
    assert read["picture"].stride() == picture.stride()
    assert torch.equal(read["part"], picture[:, :4])
    assert torch.equal(read["picture"], picture)


def test_only_floats_may_be_written_coarsely() -> None:
    assert [id(tensor) for tensor in STEP.carried] == [id(HIDDEN)]


@pytest.mark.parametrize(
    "tree",
    [
        None, [], {}, {"start": 0, "values": {}}, STEP.to_tree() | {"more": 1},
        Crossing(0, (torch.ones(1, 1, 4),), (), ()).to_tree(),
    ],
)  # fmt: skip
def test_other_fields_are_a_peers_fault(tree: Any) -> None:
    with pytest.raises(PeerFault, match="fields"):
        StageCrossing.from_tree(tree)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("start", start) for start in (-1, True, 4096, "0" * 1000, [HIDDEN] * 1000)),
        *(("values", {"x": value}) for value in ("text", None, [HIDDEN], Marker("cache"))),
        ("values", ()),
        ("values", {"x" * (NAME_MAX + 1): 1}),
        ("values", {str(number): 1 for number in range(VALUES_MAX + 1)}),
        *(("lie", lie) for lie in (1, ((1, 0),), ((), (0, 0)), ((), ()) * 2)),
    ],
)
def test_anything_else_is_a_peers_fault(field: str, value: object) -> None:
    with pytest.raises(PeerFault) as caught:
        StageCrossing.from_tree(STEP.to_tree() | {field: value})
    assert len(str(caught.value)) < NAME_MAX + 100, "what a peer sent is not said again"


def test_a_chains_step_is_told_from_a_graphs() -> None:
    with pytest.raises(PeerFault):
        Crossing.from_tree(STEP.to_tree())
