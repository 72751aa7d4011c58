"""How tensors lie in memory goes along with their bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardline.codec import pack, unpack
from shardline.core.errors import PeerFault
from shardline.model.strides import aligned, laid, lie_of

FLAT = torch.arange(24.0).reshape(2, 3, 4)


def through_bytes(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    tree: Any = unpack(pack({"tensors": tuple(tensors), "lie": lie_of(tensors)}))
    return laid(tree["tensors"], tree["lie"])


@st.composite
def dense(draw: st.DrawFn) -> torch.Tensor:
    """A tensor of any order of its dimensions."""
    sizes = draw(st.lists(st.integers(0, 3), max_size=4))
    whole = torch.randn(sizes)
    return whole.permute(draw(st.permutations(range(len(sizes)))))


@given(st.lists(dense(), max_size=4))
def test_tensors_come_back_with_their_strides(tensors: list[torch.Tensor]) -> None:
    for sent, got in zip(tensors, through_bytes(tensors), strict=True):
        assert torch.equal(sent, got)
        wide = [at for at, size in enumerate(sent.shape) if size > 1 and sent.numel()]
        assert [got.stride(at) for at in wide] == [sent.stride(at) for at in wide]


def test_a_part_of_a_tensor_lies_as_the_whole_does() -> None:
    part = torch.randn(2, 5, 5, 8).permute(0, 3, 1, 2)[:, :4]
    (got,) = through_bytes([part])
    assert torch.equal(got, part)
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_a_picture_of_one_pixel_lies_by_channels_too() -> None:
    pixel = torch.randn(2, 1, 1, 32).permute(0, 3, 1, 2)
    (got,) = through_bytes([pixel])
    assert got.stride() == pixel.stride() == (32, 1, 32, 32)


def test_what_lies_row_by_row_or_overlaps_is_sent_as_ever() -> None:
    tensors = [FLAT, torch.ones(3, 1).expand(3, 4), torch.tensor(1.0)]
    assert lie_of(tensors) == ()
    assert laid(tensors, ()) == tensors


@pytest.mark.parametrize(
    "lie",
    [
        1, "no", ((),) * 2, (1,), ((0, 1),), ((0, 1, 1),), ((0, 1, 3),), ((0, 1, -1),),
        ((0, 1, True),), ((0, "1", 2),), ((0, 1.0, 2),), ([0, 1, 2],), ((0, 1, 2) * 1000,),
        None, FLAT, (FLAT,), ((0, 1, FLAT),),
    ],
)  # fmt: skip
def test_an_order_that_is_none_is_a_peers_fault(lie: Any) -> None:
    with pytest.raises(PeerFault):
        laid([FLAT], lie)


def test_a_tensor_that_is_named_often_is_copied_once() -> None:
    often = laid([FLAT] * 1000, ((2, 0, 1),) * 1000)
    assert len({id(tensor) for tensor in often}) == 1
    assert torch.equal(often[0], FLAT)
    with pytest.raises(PeerFault, match="two orders"):
        laid([FLAT, FLAT], ((2, 0, 1), (1, 0, 2)))


def test_a_tensor_that_lies_badly_is_copied_and_no_other() -> None:
    whole = torch.empty(64)
    assert aligned(whole) is whole
    assert aligned(whole[1:]).data_ptr() % 64 == 0
