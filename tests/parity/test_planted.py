"""The parity tests would notice the mistakes that are easily made with caches.

Each test plants one bug and shows that logits or a failing block give it away. Where a bug cannot
matter, that is shown too: Mamba's caller asks its cache for nothing, and no block of any
architecture here asks a span's cache how long it is (the caller's masks and positions carry that),
so a wrong answer there can only matter to architectures that are yet to come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

import shardline.model.ends
from shardline.core.errors import StepFailed
from shardline.model import Crossing, LoadedSpan, Returned, SessionCache, SpanCache
from tests.parity.chains import LocalChain, difference, generated, padded_batch, prompt

if TYPE_CHECKING:
    from transformers.cache_utils import Cache

    from tests.parity.conftest import Case

CAUGHT = 1e-3
"""Far above rounding: the bugs below move logits by 0.1 and more."""


def gap(case: Case, chain: LocalChain, inputs: tuple[torch.Tensor, torch.Tensor]) -> float:
    """How far a buggy chain is from the whole model; infinite if a block fails."""
    _, expected = generated(case.whole, inputs, tokens=8)
    try:
        _, logits = generated(case.ends_over(chain), inputs, tokens=8)
    except StepFailed:
        return float("inf")
    return difference(logits, expected)


class ForgetfulChain(LocalChain):
    """Its last span starts each step with an empty cache."""

    def __call__(self, cache: Cache | None, crossing: Crossing) -> Returned:
        if cache is not None and cache in self.sessions:
            self.sessions[cache][-1] = self.spans[-1].new_cache()
        return super().__call__(cache, crossing)


class MixingChain(LocalChain):
    """Its last span takes the first span's cache for its own."""

    def __call__(self, cache: Cache | None, crossing: Crossing) -> Returned:
        if cache is not None and cache in self.sessions:
            self.sessions[cache][-1] = self.sessions[cache][0]
        return super().__call__(cache, crossing)


@pytest.mark.parametrize("inputs", [prompt(), padded_batch()], ids=["one", "padded"])
def test_a_span_that_forgets_is_caught(
    case: Case, inputs: tuple[torch.Tensor, torch.Tensor]
) -> None:
    assert gap(case, ForgetfulChain(case.chain.spans), inputs) > CAUGHT


def test_a_span_with_another_spans_cache_is_caught(case: Case) -> None:
    assert gap(case, MixingChain(case.chain.spans), prompt()) > CAUGHT


def test_a_callers_cache_that_stays_empty_is_caught(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a ghost tensor of last dimension 0 leads to: a length of 0 for ever."""

    def nothing(*_: object) -> None:
        return

    monkeypatch.setattr(shardline.model.ends, "extend_ghost", nothing)
    found = gap(case, case.chain, padded_batch())
    assert found > CAUGHT if case.tiny.name != "mamba" else found == 0.0


class ZeroCache(SpanCache):
    """Answers every question with the length of layer 0, which this span does not hold."""

    asked = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        type(self).asked += 1
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        type(self).asked += 1
        return query_length, 0


def test_a_span_that_answers_layer_zeros_length_is_caught_or_never_asked(case: Case) -> None:
    ZeroCache.asked = 0
    chain = LocalChain(case.chain.spans, lambda span: ZeroCache(span.plan.config, span.span))
    found = gap(case, chain, padded_batch())
    assert found > CAUGHT or ZeroCache.asked == 0


def test_a_span_that_keeps_more_than_the_window_is_caught(case: Case) -> None:
    """Where there are sliding windows; elsewhere the bug changes nothing."""
    windows = 0

    def endless(span: LoadedSpan) -> SessionCache:
        nonlocal windows
        cache = span.new_cache()
        for index, layer in enumerate(cache.layers):
            if isinstance(layer, CacheLayerMixin) and getattr(layer, "is_sliding", False):
                cache.layers[index] = DynamicLayer()
                windows += 1
        return cache

    found = gap(case, LocalChain(case.chain.spans, endless), prompt())
    assert found > CAUGHT if windows else found == 0.0


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, 2.0])
def test_a_difference_is_seen_wherever_it_is(wrong: float) -> None:
    whole = (torch.ones(3), torch.full((3,), -torch.inf), torch.ones(3))
    assert difference(whole, whole) == 0
    assert difference((*whole[:2], torch.tensor([1.0, wrong, 1.0])), whole) >= 1
    assert difference((whole[0], torch.tensor([wrong] * 3), whole[2]), whole) > 0
