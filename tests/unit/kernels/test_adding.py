"""Sums in bfloat16: torch's bits for every size, wherever the numbers lie."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardline.kernels import added, can_add
from shardline.kernels.adding import source

if TYPE_CHECKING:
    from collections.abc import Callable

BF16 = torch.bfloat16
SPECIAL = torch.tensor([0.0, -0.0, 1.0, 3.4e38, -3.4e38, 1e-40, math.inf, -math.inf, math.nan])

here = pytest.mark.skipif(
    not can_add(torch.ones(1, dtype=BF16), torch.ones(1, dtype=BF16)),
    reason="the text is not for this processor",
)


def some(*shape: int) -> torch.Tensor:
    return (torch.randn(shape) * torch.randn(shape).mul(3).exp()).to(BF16)


def check(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    """The very bits; a number that is none may be any of those."""
    wanted = a + b
    assert can_add(a, b)
    assert added(a, b, out) is out
    torch.testing.assert_close(out, wanted, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(out.signbit() & ~out.isnan(), wanted.signbit() & ~wanted.isnan())


@here
@given(
    count=st.integers(0, 70) | st.sampled_from([2048, 32767, 32768, 40001]),
    starts=st.tuples(*3 * [st.integers(0, 40)]),
)
def test_the_bits_are_torchs_for_every_size_and_alignment(
    count: int, starts: tuple[int, int, int]
) -> None:
    around = some(3, 41 + count)
    before = around.clone()
    a, b, out = (row[at : at + count] for row, at in zip(around, starts, strict=True))
    check(a, b, out)
    out.copy_(before[2, starts[2] :][:count])
    assert torch.equal(around, before)  # nothing beside them was written


@here
def test_so_they_are_for_special_numbers_and_for_each_number_there_is() -> None:
    pairs = torch.cartesian_prod(SPECIAL, SPECIAL).to(BF16).t().contiguous()
    check(pairs[0], pairs[1], torch.empty_like(pairs[0]))
    each = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(BF16)
    check(each, some(2**16), torch.empty_like(each))


@here
def test_a_sum_may_lie_where_its_numbers_were() -> None:
    a, b = some(2, 3, 37), some(2, 3, 37)
    wanted = a + b
    assert torch.equal(added(a, b, a), wanted)


@here
@pytest.mark.parametrize("count", [2, 3])
def test_threads_change_nothing(threads: Callable[[int], None], count: int) -> None:
    a, b = some(3, 20011), some(3, 20011)
    threads(count)
    check(a, b, torch.full_like(a, math.nan))


@here
@pytest.mark.parametrize(
    "other",
    [
        torch.zeros(4, 6),
        torch.zeros(4, 6, dtype=torch.float16),
        some(4, 5),
        some(24),
        some(1, 4, 6),
        some(6, 4).t(),
        some(4, 12)[:, ::2],
        some(4, 6).to("meta"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(other: torch.Tensor) -> None:
    own = some(4, 6)
    assert not can_add(own, other)
    assert not can_add(other, own)
    for given_ in ((own, other, own), (other, own, own), (own, own, other)):
        with pytest.raises(ValueError, match="of"):
            added(*given_)


def test_the_text_is_llvms_wherever_it_is_not_run(
    functions_of: Callable[[str], set[str]],
) -> None:
    assert "added" in functions_of(source())
