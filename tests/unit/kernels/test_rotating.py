"""Rotary positions in one go: the bits of torch's operations."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.llama import modeling_llama

from shardline.kernels import can_gate, rotated
from shardline.kernels.rotating import source

BF16 = torch.bfloat16
by_torch: Any = vars(modeling_llama)["apply_rotary_pos_emb"]

here = pytest.mark.skipif(not can_gate(), reason="the text is not for this processor")
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def some(*shape: int) -> torch.Tensor:
    return torch.randn(shape).to(BF16)


def inputs(rows: int, tokens: int, *, width: int = 32, sides: int = 1) -> Inputs:
    queries, keys = some(rows, tokens, 6, width), some(rows, tokens, 2, width)
    cos, sin = some(sides, tokens, width), some(sides, tokens, width)
    return queries.transpose(1, 2), keys.transpose(1, 2), cos, sin


@here
@given(
    rows=st.integers(1, 3), tokens=st.integers(1, 20), halves=st.integers(1, 8), own=st.booleans()
)
def test_the_bits_are_torchs(rows: int, tokens: int, halves: int, *, own: bool) -> None:
    given_ = inputs(rows, tokens, width=16 * halves, sides=rows if own else 1)
    found = rotated(*given_)
    assert found is not None
    for ours, torchs in zip(found, by_torch(*given_), strict=True):
        assert torch.equal(ours, torchs)
        assert ours.transpose(1, 2).is_contiguous()


@here
def test_a_tokens_bits_are_its_own() -> None:
    queries, keys, cos, sin = inputs(1, 9)
    together = rotated(queries, keys, cos, sin)
    assert together is not None
    for at in range(9):
        own = slice(at, at + 1)
        heads = [x[:, :, own].reshape(1, 1, -1, 32).transpose(1, 2) for x in (queries, keys)]
        alone = rotated(heads[0], heads[1], cos[:, own], sin[:, own])
        assert alone is not None
        assert torch.equal(alone[0], together[0][:, :, own])
        assert torch.equal(alone[1], together[1][:, :, own])


@here
@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_change_nothing(threads: Callable[[int], None], count: int) -> None:
    given_ = inputs(2, 300, width=128, sides=2)
    threads(1)
    alone = rotated(*given_)
    threads(count)
    found = rotated(*given_)
    assert alone is not None
    assert found is not None
    assert torch.equal(found[0], alone[0])
    assert torch.equal(found[1], alone[1])


@here
def test_what_is_no_number_stays_in_its_head() -> None:
    queries, keys, cos, sin = inputs(1, 3)
    queries[0, 1, 2, 3], keys[0, 1, 0, 20] = math.nan, math.inf
    found = rotated(queries, keys, cos, sin)
    assert found is not None
    for ours, torchs in zip(found, by_torch(queries, keys, cos, sin), strict=True):
        torch.testing.assert_close(ours, torchs, rtol=0, atol=0, equal_nan=True)


def others() -> list[Inputs]:
    queries, keys, cos, sin = inputs(2, 3)
    return [
        (queries.float(), keys, cos, sin),
        (queries, keys, cos.float(), sin.float()),
        (queries.contiguous(), keys, cos, sin),
        (queries[:0], keys[:0], cos, sin),
        (queries, keys, cos, sin[:, :1]),
        (queries, keys, cos[0], sin[0]),
        (queries, keys, cos[..., :16].contiguous(), sin[..., :16].contiguous()),
        (queries, keys, cos[:, :1], sin[:, :1]),
        inputs(2, 3, width=24),
        inputs(2, 3, sides=3),
    ]


@pytest.mark.parametrize("other", others())
def test_others_are_not_taken(other: Inputs) -> None:
    assert rotated(*other) is None


def test_the_text_is_llvms_wherever_it_is_not_run(
    functions_of: Callable[[str], set[str]],
) -> None:
    assert "rotated" in functions_of(source())
