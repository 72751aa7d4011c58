"""Products by panels: torch's own bits, whatever the number of rows and threads."""

import gc
import importlib
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from shardline.kernels import Panels
from shardline.kernels.arithmetic import BF16
from shardline.kernels.code import OUTPUTS
from shardline.kernels.compiling import compiled
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
