"""Gates in one go: the bits of torch's two operations, for every number there is."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.activations import GELUTanh

from shardline.kernels import can_gate, gated, table_of
from shardline.kernels.gating import source

BF16 = torch.bfloat16
SILU = nn.SiLU()

here = pytest.mark.skipif(not can_gate(), reason="the text is not for this processor")


def some(*shape: int) -> torch.Tensor:
    return (torch.randn(shape) * 3).to(BF16)


def same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)


@here
@pytest.mark.parametrize("function", [SILU, GELUTanh(), nn.ReLU()])
def test_the_bits_are_torchs_for_every_gate(function: nn.Module) -> None:
    gates = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(BF16)
    ups = some(2**16)
    same(gated(gates.clone(), ups, table_of(function)), function(gates) * ups)


@here
@given(rows=st.integers(1, 9), width=st.integers(1, 700))
def test_so_they_are_for_every_size(rows: int, width: int) -> None:
    gates, ups = some(1, rows, width), some(1, rows, width)
    same(gated(gates.clone(), ups, table_of(SILU)), SILU(gates) * ups)


@here
@given(rows=st.integers(1, 9), width=st.integers(1, 700))
def test_a_rows_bits_are_its_own(rows: int, width: int) -> None:
    gates, ups, table = some(rows, width), some(rows, width), table_of(SILU)
    alone = [
        gated(gate[None].clone(), up[None], table) for gate, up in zip(gates, ups, strict=True)
    ]
    found = gated(gates, ups, table)
    assert torch.equal(torch.cat(alone), found)
    assert found is gates


@here
@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_change_nothing(threads: Callable[[int], None], count: int) -> None:
    gates, ups, table = some(13, 5632), some(13, 5632), table_of(SILU)
    threads(1)
    alone = gated(gates.clone(), ups, table)
    threads(count)
    assert torch.equal(gated(gates, ups, table), alone)


@here
def test_numbers_may_lie_anywhere_and_what_is_none_stays_at_its_place() -> None:
    wide, table = some(5, 90), table_of(SILU)
    gates, ups = wide[:, 1:36], wide[:, 45:80]
    clean = gated(gates.clone(), ups.clone(), table)
    assert torch.equal(gated(gates, ups, table), clean)
    gates[1, 3], ups[2, 4], ups[3, 5] = math.nan, math.nan, math.inf
    found = gated(gates, ups, table)
    same(found, SILU(gates) * ups)
    assert int((found != clean).sum()) == len("123")
    assert gated(gates[:0], ups[:0], table).shape == (0, 35)


@here
def test_gates_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="gates of"):
        gated(some(2, 16), some(1, 16), table_of(SILU))


def test_the_text_is_llvms_wherever_it_is_not_run(
    functions_of: Callable[[str], set[str]],
) -> None:
    assert "gated" in functions_of(source())
