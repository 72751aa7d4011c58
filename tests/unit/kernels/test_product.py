"""Products by panels: torch's own bits, whatever the number of rows and threads."""

import gc
import importlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from shardline.kernels import Panels
from shardline.kernels.arithmetic import BF16, INT8, Arithmetic
from shardline.kernels.code import OUTPUTS, source
from shardline.kernels.compiling import compiled
from shardline.kernels.laying import ROWS
from shardline.kernels.memory import lasting

here = pytest.mark.skipif(compiled(BF16) is None, reason="the product is not for this processor")


def some(*shape: int) -> torch.Tensor:
    return torch.randn(shape).bfloat16()


@here
@given(
    rows=st.integers(2, 40),
    pairs=st.one_of(st.integers(1, 300), st.sampled_from([512, 513, 1024, 2816])),
    panels=st.integers(1, 5),
    bias=st.booleans(),
)
def test_the_bits_are_torchs(rows: int, pairs: int, panels: int, *, bias: bool) -> None:
    weight, x = some(OUTPUTS * panels, 2 * pairs), some(rows, 2 * pairs)
    added = some(OUTPUTS * panels) if bias else None
    held = Panels(weight, added)
    assert torch.equal(held(x), functional.linear(x, weight, added))
    assert torch.equal(held.weight(), weight)


@here
@given(rows=st.integers(1, 3 * ROWS), pairs=st.integers(1, 1100))
def test_a_rows_bits_are_its_own(rows: int, pairs: int) -> None:
    held, x = Panels(some(64, 2 * pairs)), some(rows, 2 * pairs)
    assert torch.equal(torch.cat([held(row[None]) for row in x]), held(x))
    assert torch.equal(held(x[0]), held(x)[0])


@here
@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_change_nothing(threads: Callable[[int], None], count: int) -> None:
    held, x = Panels(some(5 * OUTPUTS, 640)), some(2, 9, 640)
    threads(1)
    alone = held(x)
    threads(count)
    assert alone.shape == (2, 9, 5 * OUTPUTS)
    assert torch.equal(held(x), alone)


@here
def test_rows_may_lie_anywhere() -> None:
    held, wide = Panels(some(64, 32)), some(7, 67)
    cut = wide[:, 3:35]
    assert torch.equal(held(cut), held(cut.clone()))
    odd = torch.frombuffer(bytearray(2 + 64), dtype=torch.bfloat16, offset=2)
    assert torch.equal(held(odd[None]), torch.zeros(1, 64, dtype=torch.bfloat16))
    assert held(some(0, 32)).shape == (0, 64)


@here
def test_what_is_no_number_stays_in_its_row() -> None:
    held, x = Panels(some(64, 96)), some(4, 96)
    clean = held(x)
    x[1, 5], x[2, 5] = math.nan, math.inf
    found = held(x)
    assert torch.equal(found[::3], clean[::3])
    assert bool(found[1].isnan().all())
    assert not bool(found[2].isfinite().any())


@here
@pytest.mark.parametrize("x", [torch.zeros(2, 64), some(2, 62)])
def test_rows_that_do_not_fit_are_refused(x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="not bfloat16 of 64"):
        Panels(some(32, 64))(x)


@pytest.mark.parametrize(
    "weight",
    [some(33, 64), some(32, 63), some(32, 0), torch.zeros(32, 64), some(32, 64).to("meta")],
)
def test_other_weights_are_not_taken(weight: torch.Tensor) -> None:
    assert not Panels.takes(weight)


@pytest.mark.parametrize("arithmetic", [BF16, INT8])
def test_the_text_is_llvms_wherever_it_is_not_run(
    arithmetic: Arithmetic, functions_of: Callable[[str], set[str]]
) -> None:
    products = {f"product.{name}" for name in arithmetic.rows}
    assert functions_of(source(arithmetic)) >= {"panels", f"tile.{ROWS}"} | products


@here
def test_functions_stay_as_long_as_who_calls_them() -> None:
    held, x = Panels(some(64, 96)), some(3, 96)
    found = held(x)
    compiled.cache_clear()
    gc.collect()
    assert torch.equal(held(x), found)
    assert torch.equal(Panels(held.weight())(x), found)


def test_without_its_library_there_is_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    compiled.cache_clear()
    try:
        assert compiled(BF16) is None
        assert not Panels.takes(some(32, 64))
    finally:
        compiled.cache_clear()


@pytest.mark.parametrize("megabytes", [0.001, 1, 2, 4.5, 7])
def test_what_lasts_is_a_copy_wherever_its_pages_are(megabytes: float) -> None:
    width = int(megabytes * 2**20) // 64 // 2
    values = some(64, width)
    kept = lasting(values.t())
    assert kept.is_contiguous()
    assert kept.data_ptr() % 64 == 0
    assert torch.equal(kept, values.t())
    values.zero_()
    assert bool(kept.any())
