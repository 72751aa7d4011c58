"""Products in 8 bits by panels: the bits that quantising by torch and exact sums give."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardline.kernels import Panels8
from shardline.kernels.arithmetic import INT8
from shardline.kernels.code import OUTPUTS
from shardline.kernels.compiling import compiled
from shardline.kernels.laying import TINY

here = pytest.mark.skipif(compiled(INT8) is None, reason="the product is not for this processor")
dtypes = st.sampled_from([torch.bfloat16, torch.float32])


def some(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(shape).to(dtype)


def codes(outputs: int, inputs: int) -> torch.Tensor:
    return torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)


def expected(held: torch.Tensor, scale: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Step by step, each as torch rounds it."""
    rows = x.float()
    of_rows = (rows.abs().amax(-1, keepdim=True) / 127).clamp(min=TINY)
    steps = (rows / of_rows).round().long()
    return ((steps @ held.long().t()).float() * scale * of_rows).to(x.dtype)


@here
@given(
    rows=st.integers(1, 40),
    fours=st.one_of(st.integers(1, 150), st.sampled_from([512, 1408])),
    panels=st.integers(1, 5),
    size=st.sampled_from([1.0, 1e-38, 1e-30, 1e30]),
    dtype=dtypes,
)
def test_the_bits_are_torchs(
    rows: int, fours: int, panels: int, size: float, dtype: torch.dtype
) -> None:
    weight, scale = codes(OUTPUTS * panels, 4 * fours), torch.rand(OUTPUTS * panels)
    x = (torch.randn(rows, 4 * fours) * size).to(dtype)
    found = Panels8(weight, scale)(x)
    assert found.dtype == dtype
    assert torch.equal(found, expected(weight, scale, x))


@here
@given(fours=st.integers(1, 40), dtype=dtypes)
def test_halves_of_a_step_are_rounded_to_even(fours: int, dtype: torch.dtype) -> None:
    x = torch.randint(-254, 255, (2, 4 * fours)).float().mul(0.5)
    x[:, 0] = 127
    x = x.to(dtype)
    weight, scale = codes(32, 4 * fours), torch.ones(32)
    assert torch.equal(Panels8(weight, scale)(x), expected(weight, scale, x))


@here
@given(
    rows=st.integers(1, 20),
    fours=st.integers(1, 20),
    at=st.tuples(st.integers(0, 19), st.integers(0, 79)),
    large=st.sampled_from([6.0, -6.0, 6.03125, -7.0, 1e30, math.inf, -math.inf, math.nan]),
    dtype=dtypes,
)
def test_one_input_beyond_is_seen_wherever_it_is(
    rows: int, fours: int, at: tuple[int, int], large: float, dtype: torch.dtype
) -> None:
    x = some(rows, 4 * fours, dtype=dtype).clamp(-5, 5)
    held = Panels8(codes(32, 4 * fours), torch.rand(32))
    asked: list[torch.Tensor] = []

    def otherwise(rows: torch.Tensor) -> torch.Tensor:
        asked.append(rows)
        return torch.full((len(rows), 32), 7.0)

    assert torch.equal(held.within(x, 6.0, otherwise), held(x))
    assert not asked
    x[at[0] % rows, at[1] % (4 * fours)] = large
    found = held.within(x, 6.0, otherwise)
    assert found.dtype == dtype
    assert bool(asked) == (abs(large) != 6)
    assert bool((found == 7).all()) == bool(asked)
