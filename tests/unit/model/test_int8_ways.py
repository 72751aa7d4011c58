"""8-bit layers by each kernel that can multiply them: nodes with any of these are in one chain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.kernels import Panels8
from shardline.model import int8
from shardline.model.int8 import MixedInt8
from shardline.model.weights import EXACT

if TYPE_CHECKING:
    from collections.abc import Iterator

WAYS: Final = ("ours", "fbgemm", "torch")


def nothing(codes: torch.Tensor) -> bool:
    """What is taken where the processor is none for it."""
    return codes.numel() < 0


def by(way: str, tensors: dict[str, torch.Tensor]) -> Any:
    """A layer that is multiplied this way; skips where the processor has not what it needs."""
    if way == "ours" and not Panels8.takes(tensors["codes"]):
        pytest.skip("our product is not for this processor")
    if way == "fbgemm" and not int8._can_pack():  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        pytest.skip("FBGEMM is not for this processor")
    with pytest.MonkeyPatch.context() as patch:
        if way != "ours":
            patch.setattr(Panels8, "takes", staticmethod(nothing))
        if way == "torch":
            patch.setattr(int8, "_can_pack", lambda: False)
        made = MixedInt8().ready(tensors)
    held: Any = made
    assert isinstance(held._in_8_bits, Panels8) == (way == "ours")  # noqa: SLF001
    return held


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float(((found - exact).square().sum() / exact.square().sum()).sqrt())


def layer(outputs: int, inputs: int, *, columns: bool) -> dict[str, torch.Tensor]:
    tensors = MixedInt8().quantise(torch.randn(outputs, inputs))
    if not columns:
        del tensors[EXACT]
    return tensors


@dataclass(frozen=True, slots=True)
class Case:
    """A layer, and rows for it."""

    rows: int
    outputs: int
    inputs: int
    size: float
    planted: list[tuple[int, int]]
    """Where inputs are 60 times as large, modulo rows and inputs."""
    columns: bool
    dtype: torch.dtype

    def x(self) -> torch.Tensor:
        x = torch.randn(self.rows, self.inputs).mul(self.size)
        for row, column in self.planted:
            x[row % self.rows, column % self.inputs] *= 60
        return x.to(self.dtype)


cases = st.builds(
    Case,
    rows=st.integers(1, 40),
    outputs=st.integers(1, 4).map(lambda panels: 32 * panels),
    inputs=st.one_of(st.integers(1, 80), st.sampled_from([512, 1408])).map(lambda fours: 4 * fours),
    size=st.sampled_from([1.0, 1e-20, 7.0, 100.0]),
    planted=st.lists(st.tuples(st.integers(0, 39), st.integers(0, 5631)), max_size=5),
    columns=st.booleans(),
    dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float16]),
)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("other", WAYS[1:])
@settings(max_examples=60)
@given(case=cases)
def test_every_way_gives_the_same_bits(other: str, case: Case) -> None:
    tensors = layer(case.outputs, case.inputs, columns=case.columns)
    x = case.x()
    found = by("ours", tensors)(x)
    assert found.dtype == case.dtype
    # What is planted may be infinite in 16 bits, and a row of that times a weight of 0 no number.
    torch.testing.assert_close(found, by(other, tensors)(x), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("columns", [True, False])
@pytest.mark.parametrize("rows", [2, 5, 9])
@pytest.mark.parametrize("other", WAYS[1:])
def test_what_is_no_number_is_the_same_every_way(other: str, rows: int, *, columns: bool) -> None:
    tensors = layer(64, 96, columns=columns)
    ours, theirs = by("ours", tensors), by(other, tensors)
    for large in (math.nan, math.inf, -math.inf):
        x = torch.randn(rows, 96).bfloat16()
        x[1, 7] = large
        found = ours(x)
        assert not found[1].isfinite().any()
        assert torch.equal(found[0], ours(x[:1])[0])
        torch.testing.assert_close(found, theirs(x), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("way", WAYS)
def test_a_row_of_no_numbers_costs_others_no_exactness(way: str) -> None:
    weight, x = torch.randn(256, 4096), torch.randn(8, 4096)
    x[:, torch.randperm(4096)[:6]] *= 60
    exact = x @ weight.t()
    held = by(way, MixedInt8().quantise(weight))
    x[0, 0] = math.nan
    found = held(x)
    assert found[0].isnan().all()
    assert error(found[1:], exact[1:]) < 0.01  # all in 8 bits: 0.098


@pytest.mark.parametrize("way", WAYS)
def test_no_rows_give_no_rows(way: str) -> None:
    found = by(way, layer(32, 64, columns=True))(torch.zeros(0, 64).bfloat16())
    assert found.shape == (0, 32)
    assert found.dtype == torch.bfloat16


def test_other_shapes_go_another_way() -> None:
    tensors = layer(33, 62, columns=True)
    assert not Panels8.takes(tensors["codes"])
    x = torch.randn(3, 62)
    exact = x @ (tensors["codes"].float() * tensors["scale"][:, None]).t()
    found = MixedInt8().ready(tensors)(x)
    assert error(found, exact) < 0.02
