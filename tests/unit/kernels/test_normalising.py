"""RMSNorm in one go: the bits of torch's operations, whatever the company and the threads."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardline.kernels import can_normalise
from shardline.kernels import normalised as by_us
from shardline.kernels.normalising import WAYS, source

BF16 = torch.bfloat16
EPSILON = 1e-6

here = pytest.mark.skipif(
    not can_normalise(torch.ones(8, dtype=BF16)), reason="the text is not for this processor"
)
ways = st.sampled_from(list(WAYS))


def some(*shape: int) -> torch.Tensor:
    return torch.randn(shape).to(BF16)


def normalised(x: torch.Tensor, weight: torch.Tensor, eps: float, way: str) -> torch.Tensor:
    """What is taken."""
    found = by_us(x, weight, eps, way)
    assert found is not None
    return found


def expected(x: torch.Tensor, weight: torch.Tensor, way: str) -> torch.Tensor:
    """Operation by operation, as Transformers has it."""
    rows = x.float()
    scaled = rows * torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + EPSILON)
    if way == "beyond_one":
        return (scaled * (1.0 + weight.float())).to(BF16)
    return weight * scaled.to(BF16) if way == "twice" else (weight * scaled).to(BF16)


@here
@given(
    rows=st.integers(1, 9),
    eights=st.one_of(st.integers(1, 300), st.sampled_from([704, 1024, 1792, 2048, 4096, 8192])),
    size=st.sampled_from([1.0, 1e-39, 1e-30, 1e-20, 1e-3, 1e15, 3e19]),
    way=ways,
)
def test_the_bits_are_torchs(rows: int, eights: int, size: float, way: str) -> None:
    x, weight = (torch.randn(1, rows, 8 * eights) * size).to(BF16), some(8 * eights)
    found, wanted = normalised(x, weight, EPSILON, way), expected(x, weight, way)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)


@here
@given(rows=st.integers(1, 20), eights=st.integers(1, 300), way=ways)
def test_a_rows_bits_are_its_own(rows: int, eights: int, way: str) -> None:
    x, weight = some(rows, 8 * eights), some(8 * eights)
    together = normalised(x, weight, EPSILON, way)
    alone = [normalised(row[None], weight, EPSILON, way) for row in x]
    assert torch.equal(torch.cat(alone), together)
    assert torch.equal(normalised(x[0], weight, EPSILON, way), together[0])


@here
@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_change_nothing(threads: Callable[[int], None], count: int) -> None:
    x, weight = some(2, 19, 2048), some(2048)
    threads(1)
    alone = normalised(x, weight, EPSILON, "twice")
    threads(count)
    assert torch.equal(normalised(x, weight, EPSILON, "twice"), alone)


@here
def test_rows_may_lie_anywhere() -> None:
    wide, weight = some(7, 67), some(32)
    cut = wide[:, 3:35]
    found = normalised(cut, weight, EPSILON, "once")
    assert torch.equal(found, normalised(cut.clone(), weight, EPSILON, "once"))
    turned = some(32, 7).t()
    assert torch.equal(
        normalised(turned, weight, EPSILON, "once"),
        normalised(turned.contiguous(), weight, EPSILON, "once"),
    )
    assert normalised(some(0, 32), weight, EPSILON, "once").shape == (0, 32)


@here
@pytest.mark.parametrize("way", list(WAYS))
def test_what_is_no_number_stays_in_its_row(way: str) -> None:
    x, weight = some(4, 96), some(96)
    clean = normalised(x, weight, EPSILON, way)
    x[1, 5], x[2, 5] = math.nan, math.inf
    found = normalised(x, weight, EPSILON, way)
    assert torch.equal(found[::3], clean[::3])
    assert torch.equal(found.isnan(), expected(x, weight, way).isnan())


@here
@pytest.mark.parametrize("x", [torch.zeros(2, 64), some(2, 56), some(2, 64).to("meta")])
def test_other_rows_are_not_taken(x: torch.Tensor) -> None:
    assert by_us(x, some(64), EPSILON, "twice") is None


@pytest.mark.parametrize(
    "weight", [some(63), some(0), some(8, 8), torch.zeros(64), some(64).to("meta"), some(128)[::2]]
)
def test_other_weights_are_not_taken(weight: torch.Tensor) -> None:
    assert not can_normalise(weight)


def test_the_text_is_llvms_wherever_it_is_not_run(
    functions_of: Callable[[str], set[str]],
) -> None:
    assert functions_of(source()) >= set(WAYS)
