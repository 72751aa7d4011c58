from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardline.codec import Marker, pack, unpack
from shardline.core.errors import PeerFault
from shardline.model import Call, Crossing, Returned
from shardline.model.crossing import End

HIDDEN = torch.arange(24.0).reshape(1, 3, 8)
CARRIED = Marker("carried", 0)


def crossing(*order: int) -> Crossing:
    mask = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    calls = tuple(
        Call((CARRIED, index, None), {"mask": mask, "cache": Marker("cache"), "use": True})
        for index in range(max(order) + 1)
    )
    return Crossing(2, (HIDDEN,), calls, order)


def through_bytes(tree: Any) -> Any:
    return unpack([bytes(segment) for segment in pack(tree)])


def test_a_crossing_survives_bytes() -> None:
    sent = crossing(0, 1, 0)
    got = Crossing.from_tree(through_bytes(sent.to_tree()))
    assert (got.start, got.order) == (sent.start, sent.order)
    assert torch.equal(got.carried[0], HIDDEN)
    assert got.calls[1].args == (CARRIED, 1, None)
    assert got.calls[1].kwargs["cache"] == Marker("cache")
    assert got.calls[0].kwargs["mask"] is got.calls[1].kwargs["mask"], "sent once, shared after"


@given(st.lists(st.integers(0, 3), min_size=2, max_size=8), st.data())
def test_what_goes_on_has_only_the_calls_of_later_blocks(order: list[int], data: Any) -> None:
    whole = crossing(*order)
    start = data.draw(st.integers(whole.start, whole.start + len(order) - 1))
    rest = whole.after(start, whole.carried)
    blocks = range(start, whole.start + len(order))
    assert len(rest.order) == len(blocks)
    for block in blocks:
        before = whole.calls[whole.order[block - whole.start]]
        assert rest.calls[rest.order[block - start]] is before
    assert len(rest.calls) == len(set(rest.order))


STRANGE: list[tuple[str, Any]] = [
    ("start", -1),
    ("start", True),
    ("start", "0"),
    ("start", 1_000_000),
    ("start", "0" * 10_000),
    ("start", [HIDDEN] * 10_000),
    ("carried", ()),
    ("carried", (HIDDEN.long(),)),
    ("carried", (HIDDEN[0, 0],)),
    ("carried", (HIDDEN[None, None],)),
    ("lie", ((0, 2, 1), (0, 1))),
    ("lie", (("x",),)),
    ("lie", 1),
    ("lie", HIDDEN),
    ("carried", (HIDDEN[:, :0],)),
    ("carried", (None,)),
    ("carried", [HIDDEN]),
    ("carried", (HIDDEN,) * 9),
    ("calls", ()),
    ("calls", (((), {}),) * 3),
    ("calls", (((), ()), ((), ()))),
    ("calls", ((), ())),
    ("calls", (((Marker("carried", 9),), {}), ((), {}))),
    ("calls", (((Marker("disk"),), {}), ((), {}))),
    ("calls", (((Marker("disk" * 10_000),), {}), ((), {}))),
    ("order", ()),
    ("order", (0, 2)),
    ("order", (0, -1)),
    ("order", (0, True)),
    ("order", [0, 1]),
    ("order", (0, "1" * 10_000)),
    ("order", (0,) * 5000),
    ("kept", None),
    ("kept", (None,)),
    ("kept", (HIDDEN[0],)),
    ("kept", (HIDDEN.repeat(2, 1, 1),)),
    ("kept", (HIDDEN,) * 9),
]


@pytest.mark.parametrize(("name", "value"), STRANGE)
def test_a_crossing_that_is_not_ours_is_refused(name: str, value: Any) -> None:
    tree = crossing(0, 1).to_tree()
    with pytest.raises(PeerFault) as caught:
        Crossing.from_tree(tree | {name: value})
    assert len(str(caught.value)) < 100, "what a peer sent is not said again"


@pytest.mark.parametrize("tree", [None, (), {}, {"start": 0}, HIDDEN])
def test_a_tree_of_other_fields_is_refused(tree: Any) -> None:
    with pytest.raises(PeerFault):
        Crossing.from_tree(tree)
    with pytest.raises(PeerFault):
        Returned.from_tree(tree)


def test_a_result_keeps_the_structure_that_the_model_gave() -> None:
    sent = Returned((HIDDEN, None, Marker("cache")), ((0,),))
    assert sent.carried[0] is HIDDEN
    got = Returned.from_tree(through_bytes(sent.to_tree()))
    assert got.output[1:] == (None, Marker("cache"))
    assert torch.equal(got.output[0], HIDDEN)


@pytest.mark.parametrize("path", [(1,), (5,), ("x",), (0, 0)])
def test_a_result_without_its_hidden_state_is_refused(path: tuple[int | str, ...]) -> None:
    with pytest.raises(PeerFault):
        _ = Returned(({"a": 1}, None), (path,)).carried


def test_a_result_with_a_strange_marker_is_refused() -> None:
    with pytest.raises(PeerFault):
        Returned.from_tree({"output": Marker("carried"), "lie": ()})
    with pytest.raises(PeerFault, match="how its tensors lie"):
        Returned.from_tree({"output": HIDDEN, "lie": HIDDEN})


def test_a_result_that_names_one_tensor_often_takes_no_more_memory() -> None:
    tree = Returned((HIDDEN,) * 1000).to_tree() | {"lie": ((0, 2, 1),) * 1000}
    output = Returned.from_tree(through_bytes(tree)).output
    assert len({leaf.data_ptr() for leaf in output}) == 1
    assert torch.equal(output[0], HIDDEN)


def test_an_encoders_states_go_on_to_later_blocks_and_count_as_tokens() -> None:
    sent = dataclasses.replace(crossing(0, 1), kept=(torch.ones(1, 5, 4),))
    got = Crossing.from_tree(through_bytes(sent.after(3, (HIDDEN,)).to_tree()))
    assert torch.equal(got.kept[0], sent.kept[0])
    assert (got.tokens, got.kept_tokens, got.cache_tokens) == (3, 5, 8)
    later = crossing(0, 1)
    assert (later.kept_tokens, later.cache_tokens) == (0, 3)


def test_tensors_lie_in_memory_as_they_did_where_they_came_from() -> None:
    picture = torch.randn(2, 5, 6, 3).permute(0, 3, 1, 2)
    one = Crossing(0, (picture,), (Call((CARRIED,), {}),), (0,))
    got = Crossing.from_tree(through_bytes(one.to_tree())).carried[0]
    assert (got.stride(), got.shape) == (picture.stride(), picture.shape)
    assert torch.equal(got, picture)
    back = Returned.from_tree(through_bytes(Returned({"a": (picture, HIDDEN)}).to_tree())).output
    assert [x.stride() for x in back["a"]] == [picture.stride(), HIDDEN.stride()]


ENDS = (End((0,), 3, 8, 0), End((1,), 4, 2, None, torch.float32))
BIAS = torch.zeros(1, 2, 3, 3)


def test_what_came_back_is_checked_by_what_was_sent() -> None:
    sent = Crossing(0, (HIDDEN,), (Call((CARRIED,), {}),), (0,), ENDS)
    sent.check(Returned((HIDDEN + 1, BIAS, "more")))


@pytest.mark.parametrize(
    "output",
    [
        (HIDDEN[:, :2], BIAS),
        (HIDDEN.double(), BIAS),
        (HIDDEN, BIAS.half()),
        (HIDDEN, BIAS[0]),
        (HIDDEN, BIAS.repeat(1, 2, 1, 1)),
        (HIDDEN, BIAS.repeat(3, 1, 1, 1)),
        (HIDDEN,),
        HIDDEN,
    ],
)
def test_what_cannot_be_the_answer_is_the_peers_fault(output: Any) -> None:
    sent = Crossing(0, (HIDDEN,), (Call((CARRIED,), {}),), (0,), ENDS)
    with pytest.raises(PeerFault):
        sent.check(Returned(output))
