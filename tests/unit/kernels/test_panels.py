"""What holds of products whatever they compute with: of weights in bfloat16, and in 8 bits."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardline.kernels import Panels, Panels8
from shardline.kernels.arithmetic import BF16, INT8, Arithmetic
from shardline.kernels.code import OUTPUTS, source
from shardline.kernels.compiling import compiled
from shardline.kernels.laying import ROWS


@dataclass(frozen=True)
class Way:
    """Weights of one kind, and rows of one type."""

    arithmetic: Arithmetic
    dtype: torch.dtype

    def weights(self, outputs: int, inputs: int) -> torch.Tensor:
        numbers = (torch.randn(outputs, inputs) * 40).clamp(-127, 127)
        return numbers.to(getattr(torch, self.arithmetic.weights))

    def held(self, outputs: int, inputs: int) -> Panels | Panels8:
        weight = self.weights(outputs, inputs)
        return Panels(weight) if self.arithmetic is BF16 else Panels8(weight, torch.rand(outputs))

    def some(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape).to(self.dtype)


WAYS = [Way(BF16, torch.bfloat16), Way(INT8, torch.bfloat16), Way(INT8, torch.float32)]
each = pytest.mark.parametrize(
    "way",
    [
        pytest.param(
            way,
            id=f"{way.arithmetic.weights}-{way.dtype}",
            marks=pytest.mark.skipif(
                compiled(way.arithmetic) is None, reason="the product is not for this processor"
            ),
        )
        for way in WAYS
    ],
)


@each
@given(rows=st.integers(1, 3 * ROWS), steps=st.integers(1, 1100))
def test_a_rows_bits_are_its_own(way: Way, rows: int, steps: int) -> None:
    inputs = steps * way.arithmetic.inputs
    held, x = way.held(64, inputs), way.some(rows, inputs)
    assert torch.equal(torch.cat([held(row[None]) for row in x]), held(x))
    assert torch.equal(held(x[0]), held(x)[0])


@each
@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_change_nothing(way: Way, threads: Callable[[int], None], count: int) -> None:
    held, x = way.held(5 * OUTPUTS, 640), way.some(2, 9, 640)
    threads(1)
    alone = held(x)
    threads(count)
    assert alone.shape == (2, 9, 5 * OUTPUTS)
    assert torch.equal(held(x), alone)


@each
@pytest.mark.parametrize(("rows", "inputs"), [(1, 36), (3, 36), (7, 36), (7, 32)])
def test_rows_may_lie_anywhere(way: Way, rows: int, inputs: int) -> None:
    held, wide = way.held(64, inputs), way.some(rows, 67)
    cut = wide[:, 3 : 3 + inputs]
    assert torch.equal(held(cut), held(cut.clone()))
    odd = torch.frombuffer(bytearray(2 + inputs * way.dtype.itemsize), dtype=way.dtype, offset=2)
    assert torch.equal(held(odd), torch.zeros(64, dtype=way.dtype))
    assert torch.equal(held(odd[None]), torch.zeros(1, 64, dtype=way.dtype))
    assert held(way.some(0, inputs)).shape == (0, 64)


@each
def test_what_is_no_number_stays_in_its_row(way: Way) -> None:
    held, x = way.held(64, 96), way.some(4, 96)
    clean = held(x)
    x[1, 5], x[2, 5] = math.nan, math.inf
    found = held(x)
    assert torch.equal(found[::3], clean[::3])
    assert bool(found[1].isnan().all())
    assert not bool(found[2].isfinite().any())


@each
def test_rows_that_do_not_fit_are_refused(way: Way) -> None:
    wanted, other = (
        ("bfloat16", torch.float32) if way.arithmetic is BF16 else ("floats", torch.float16)
    )
    for x in (torch.zeros(2, 64, dtype=other), way.some(2, 60)):
        with pytest.raises(ValueError, match=f"not {wanted} of 64"):
            way.held(32, 64)(x)


@pytest.mark.parametrize("kind", [Panels, Panels8])
def test_other_weights_are_not_taken(kind: type[Panels | Panels8]) -> None:
    way = WAYS[0] if kind is Panels else WAYS[1]
    half = way.arithmetic.inputs // 2
    others = [way.weights(33, 64), way.weights(32, 64 - half), way.weights(32, 0)]
    for weight in (*others, torch.zeros(32, 64), way.weights(32, 64).to("meta")):
        assert not kind.takes(weight)
    assert kind.takes(way.weights(32, 64)) == (compiled(way.arithmetic) is not None)


@pytest.mark.parametrize("arithmetic", [BF16, INT8])
def test_the_text_is_llvms_wherever_it_is_not_run(
    arithmetic: Arithmetic, functions_of: Callable[[str], set[str]]
) -> None:
    products = {f"product.{name}" for name in arithmetic.rows}
    assert functions_of(source(arithmetic)) >= {"panels", f"tile.{ROWS}"} | products
