"""Products in 8 bits by panels: the bits that quantising by torch and exact sums give."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardline.kernels import Panels8
from shardline.kernels.arithmetic import INT8
from shardline.kernels.code import OUTPUTS
from shardline.kernels.compiling import compiled
from shardline.kernels.laying import ROWS, TINY

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
@given(rows=st.integers(1, 3 * ROWS), fours=st.integers(1, 300), dtype=dtypes)
def test_a_rows_bits_are_its_own(rows: int, fours: int, dtype: torch.dtype) -> None:
    held, x = Panels8(codes(64, 4 * fours), torch.rand(64)), some(rows, 4 * fours, dtype=dtype)
    assert torch.equal(torch.cat([held(row[None]) for row in x]), held(x))
    assert torch.equal(held(x[0]), held(x)[0])


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


@here
@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_change_nothing(threads: Callable[[int], None], count: int) -> None:
    held, x = Panels8(codes(5 * OUTPUTS, 640), torch.rand(5 * OUTPUTS)), some(2, 9, 640)
    threads(1)
    alone = held(x)
    threads(count)
    assert alone.shape == (2, 9, 5 * OUTPUTS)
    assert torch.equal(held(x), alone)


@here
@pytest.mark.parametrize("rows", [1, 3, 7])
def test_rows_may_lie_anywhere(rows: int) -> None:
    held, wide = Panels8(codes(64, 36), torch.rand(64)), some(rows, 67)
    cut = wide[:, 3:39]
    assert torch.equal(held(cut), held(cut.clone()))
    odd = torch.frombuffer(bytearray(2 + 72), dtype=torch.bfloat16, offset=2)
    assert torch.equal(held(odd), torch.zeros(64, dtype=torch.bfloat16))
    assert held(some(0, 36)).shape == (0, 64)


@here
def test_what_is_no_number_stays_in_its_row() -> None:
    held, x = Panels8(codes(64, 96), torch.rand(64)), some(4, 96)
    clean = held(x)
    x[1, 5], x[2, 5] = math.nan, math.inf
    found = held(x)
    assert torch.equal(found[::3], clean[::3])
    assert bool(found[1].isnan().all())
    assert not bool(found[2].isfinite().any())


@here
@pytest.mark.parametrize("x", [torch.zeros(2, 64, dtype=torch.float16), some(2, 60)])
def test_rows_that_do_not_fit_are_refused(x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="not floats of 64"):
        Panels8(codes(32, 64), torch.rand(32))(x)


@pytest.mark.parametrize(
    "weight",
    [codes(33, 64), codes(32, 62), codes(32, 0), torch.zeros(32, 64), codes(32, 64).to("meta")],
)
def test_other_weights_are_not_taken(weight: torch.Tensor) -> None:
    assert not Panels8.takes(weight)
