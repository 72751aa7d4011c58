from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardline.core.errors import BadInput, SpanTooLarge
from shardline.core.spans import Span
from shardline.model import CACHES, PagedLayer, Weights, kind_named
from shardline.node import Budget, ChainModel
from shardline.node.machine import TOKENS_LEAST, open_device

if TYPE_CHECKING:
    from shardline.model import ChainPlan


@dataclass
class Plan:
    """As much of a plan as a budget looks at."""

    sizes: tuple[int, ...]
    each: int = 10

    @property
    def blocks(self) -> int:
        return len(self.sizes)

    def block_bytes(self, dtype: torch.dtype) -> tuple[int, ...]:
        return tuple(size * dtype.itemsize for size in self.sizes)

    def cache_bytes_per_token(self, dtype: torch.dtype, span: Span, kind: type[PagedLayer]) -> int:
        return len(span) * kind.token_bytes(self.each, 1, dtype)


def budget(sizes: tuple[int, ...], memory_bytes: int) -> Budget:
    return Budget(ChainModel(cast("ChainPlan", Plan(sizes)), torch.float32), memory_bytes)


def test_what_does_not_fit_says_how_many_blocks_do() -> None:
    small = budget((1000,) * 8, 4 * (3 * 1000 + 3 * 10 * TOKENS_LEAST))
    assert small.fits() == 3
    small.check(Span(2, 5))
    with pytest.raises(SpanTooLarge, match=r"3 of 8 blocks fit"):
        small.check(Span(0, 4))


@given(
    st.lists(st.integers(1, 10_000), min_size=1, max_size=10).map(tuple),
    st.integers(1, 400_000),
)
def test_what_fits_can_start_at_any_block_and_one_more_cannot(
    sizes: tuple[int, ...], memory_bytes: int
) -> None:
    made = budget(sizes, memory_bytes)
    count = made.fits()
    for start in range(len(sizes) - count + 1 if count else 0):
        made.check(Span(start, start + count))
    if count < len(sizes):
        spans = [Span(start, start + count + 1) for start in range(len(sizes) - count)]
        assert any(made.cache_tokens(span) < TOKENS_LEAST for span in spans)


@pytest.mark.parametrize("name", ["cuda:0", "gpu", "cpu:x", "meta?"])
def test_a_device_that_is_not_here_is_named(name: str) -> None:
    if name == "cuda:0" and torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(BadInput, match=name.replace("?", r"\?")):
        open_device(name)


def test_weights_in_fewer_bits_leave_room_for_more_blocks_and_are_terms() -> None:
    sizes, room_bytes = (1000,) * 8, 4 * (3 * 1000 + 3 * 10 * TOKENS_LEAST)
    as_they_are = budget(sizes, room_bytes)
    quarter = Weights(kind_named("int8"), None, sizes, ())
    plan = cast("ChainPlan", Plan(sizes))
    fewer = Budget(ChainModel(plan, torch.bfloat16, quarter), room_bytes)
    assert as_they_are.model.terms == "float32"
    assert fewer.model.terms == "bfloat16+int8"
    assert fewer.span_bytes(Span(0, 2)) == 2000
    assert fewer.fits() > as_they_are.fits()


def test_a_cache_in_8_bits_has_room_for_more_tokens_and_is_terms() -> None:
    plan = cast("ChainPlan", Plan((1000,) * 8))
    exact = budget((1000,) * 8, 4 * (8 * 1000 + 8 * 10 * TOKENS_LEAST))
    int8 = Weights(kind_named("int8"), None, (1000,) * 8, ())
    coarse = ChainModel(plan, torch.float32, None, CACHES["int8"])
    both = ChainModel(plan, torch.bfloat16, int8, CACHES["int8"])
    whole = Span(0, 8)
    assert coarse.terms == "float32+cache8"
    assert both.terms == "bfloat16+int8+cache8"
    assert coarse.token_bytes(whole) == both.token_bytes(whole) == 8 * (10 + 2)
    assert (
        Budget(coarse, exact.memory_bytes).cache_tokens(whole)
        == exact.cache_tokens(whole) * 40 // 12
    )
