from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.core.ids import Seat, SessionId
from shardline.core.spans import Span
from shardline.model import CACHES, PAGE_TOKENS, Crossing, LoadedSpan, cache_in, load_span, trace
from shardline.model.pages import PagedLayer
from shardline.model.pages_int8 import Int8Layer, dequantised, quantised
from shardline.runtime import Named, SpanEngine
from tests.parity.chains import CPU
from tests.parity.zoo import make, named
from tests.unit.model.test_pages import Layers, read
from tests.unit.model.test_span import crossing

if TYPE_CHECKING:
    from pathlib import Path

    from shardline.model import ChainPlan

TINY = float(torch.finfo(torch.bfloat16).tiny)


def there_and_back(states: torch.Tensor) -> torch.Tensor:
    return dequantised([quantised(states)], states.dtype)


@given(
    seed=st.integers(0, 2**32),
    decade=st.integers(-42, 36),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
@settings(max_examples=60)
def test_an_element_is_off_by_half_a_127th_of_the_largest_of_its_vector(
    seed: int, decade: int, dtype: torch.dtype
) -> None:
    made = torch.Generator().manual_seed(seed)
    states = (torch.randn(2, 3, 4, 16, generator=made) ** 3 * 10.0**decade).to(dtype)
    found = there_and_back(states)
    largest = states.double().abs().amax(-1, keepdim=True).clamp_min(127 * TINY)
    steps = 1 / 254 + (0 if dtype == torch.float32 else 2**-8)  # bfloat16 rounds once more
    assert found.dtype == dtype
    assert ((states.double() - found.double()).abs() <= 1.01 * steps * largest).all()


def test_what_is_no_number_comes_back_as_none_and_its_neighbours_as_they_are() -> None:
    states = torch.randn(1, 1, 4, 8)
    before = there_and_back(states)
    states[0, 0, 1, 3], states[0, 0, 2, 0] = torch.nan, torch.inf
    found = there_and_back(states)
    assert found[0, 0, 1].isnan().all()
    assert found[0, 0, 2].isnan().all()
    assert torch.equal(found[0, 0, [0, 3]], before[0, 0, [0, 3]])


def test_zeros_stay_zeros() -> None:
    assert torch.equal(there_and_back(torch.zeros(1, 2, 3, 4)), torch.zeros(1, 2, 3, 4))


class Coarse(Layers):
    """A layer in 8 bits gives what a plain one gives of keys and values that were in 8 bits."""

    kind: ClassVar[type[PagedLayer]] = Int8Layer

    def seen(self, states: torch.Tensor) -> torch.Tensor:
        return there_and_back(states)


TestCoarse = Coarse.TestCase
TestCoarse.settings = settings(max_examples=20, stateful_step_count=12)


def test_terms_say_how_a_cache_is_kept() -> None:
    assert cache_in("float32") is cache_in("bfloat16+int8@4") is PagedLayer
    for kind in CACHES.values():
        assert cache_in(f"bfloat16+{kind.word}") is cache_in(f"float32+int4+{kind.word}") is kind


@pytest.fixture(scope="module")
def span(plan: ChainPlan) -> LoadedSpan:
    exact = load_span(plan, Span(1, 3), dtype=torch.float32, device=CPU)
    return LoadedSpan(plan, exact.span, exact.blocks, Int8Layer)


def test_a_token_takes_what_the_plan_says(span: LoadedSpan) -> None:
    cache = span.part(Span(1, 3)).new_cache(100)
    read(span, cache, crossing(7))
    exact_bytes = span.plan.cache_bytes_per_token(torch.float32, span.span)
    each_bytes = span.plan.cache_bytes_per_token(torch.float32, span.span, Int8Layer)
    assert cache.memory_bytes == 7 * each_bytes
    assert exact_bytes / each_bytes > 3.5  # with 16 channels a head; 3.88 with 64


@pytest.mark.parametrize("name", ["mistral", "gemma3", "mamba", "qwen3-next"])
def test_blocks_that_do_not_keep_every_token_keep_their_cache_as_it_is(
    name: str, tmp_path: Path
) -> None:
    make(named(name), tmp_path)
    plan = trace(tmp_path)
    for block, vectors in enumerate(plan.cache_vectors_per_token):
        one = Span(block, block + 1)
        layer = load_span(plan, one, dtype=torch.float32, device=CPU)
        cache = LoadedSpan(plan, one, layer.blocks, Int8Layer).new_cache()
        assert isinstance(cache.layers[block], Int8Layer) == (vectors > 0)
        fewer = plan.cache_bytes_per_token(torch.float32, one, Int8Layer)
        assert (fewer < plan.cache_bytes_per_token(torch.float32, one)) == (vectors > 0)
    kept = {"mistral": 0, "gemma3": 2, "mamba": 0, "qwen3-next": 2}[name]
    assert len(plan.cache_vectors_per_token) - plan.cache_vectors_per_token.count(0) == kept


def test_a_session_behind_anothers_pages_goes_on_as_that_other(span: LoadedSpan) -> None:
    first = span.new_cache(3 * PAGE_TOKENS)
    read(span, first, crossing(2 * PAGE_TOKENS + 9))
    pages = span.pages(first, 0, 2 * PAGE_TOKENS)
    assert pages is not None
    other = span.new_cache(3 * PAGE_TOKENS, [pages.first(1)])
    span.truncate(first, PAGE_TOKENS)
    for tokens in (1, 5, 1):
        step = crossing(tokens)
        assert torch.equal(read(span, first, step), read(span, other, step))
    span.truncate(other, PAGE_TOKENS // 2)  # parts from what is shared
    span.truncate(first, PAGE_TOKENS // 2)
    assert torch.equal(read(span, first, step), read(span, other, step))
    again = span.new_cache(3 * PAGE_TOKENS, [pages.first(1)])
    span.truncate(again, PAGE_TOKENS // 2)  # before it ever took a step
    read(span, again, step)


def test_sessions_step_as_one_as_they_do_alone(span: LoadedSpan) -> None:
    alone = [span.new_cache(100) for _ in range(2)]
    merged = [span.new_cache(100) for _ in range(2)]
    for tokens in (3, 3, 1, 1, 1):
        steps = [crossing(tokens), crossing(tokens)]
        found = span.run_together(list(zip(steps, merged, strict=True)))
        for step, cache, result in zip(steps, alone, found, strict=True):
            assert isinstance(result, Crossing)
            wanted = read(span, cache, step)
            assert float((result.carried[0] - wanted).abs().mean()) < 1e-3
            span.check(merged[0], cache.tokens)
    assert set(span.together.tried) == {True}


def test_an_engine_keeps_its_book_and_shares_prefixes_over_such_a_span(span: LoadedSpan) -> None:
    engine = SpanEngine(span, cache_tokens=8 * PAGE_TOKENS)
    named = Named("me", (b"one", b"two"))
    prompt, rest = crossing(2 * PAGE_TOKENS), [crossing(7), crossing(1)]

    def seat(number: int) -> Seat:
        return Seat(SessionId(f"{number:032x}"), 0)

    def begin(number: int) -> int:
        return engine.open(
            seat(number), span.span, rows=1, tokens=3 * PAGE_TOKENS, now_s=0.0, named=named
        )

    def steps(number: int, crossings: list[Crossing]) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        for step in crossings:
            out = engine.step(seat(number), step, now_s=0.0)
            engine.check_integrity()
            assert isinstance(out, Crossing)
            found.append(out.carried[0])
        return found

    assert begin(1) == 0
    wanted = steps(1, [prompt, *rest])[1:]
    engine.close(seat(1))
    assert engine.report().cache_tokens_free == 8 * PAGE_TOKENS
    assert begin(2) == 2
    engine.attach(seat(2), 2)
    assert all(map(torch.equal, steps(2, rest), wanted))
    assert engine.report().cache_tokens_free == 5 * PAGE_TOKENS
    engine.truncate(seat(2), 2 * PAGE_TOKENS)
    assert all(map(torch.equal, steps(2, rest), wanted))
    engine.truncate(seat(2), PAGE_TOKENS + 3)  # within what is shared
    steps(2, rest)
    assert begin(3) == 2
    engine.attach(seat(3), 2)
    assert all(map(torch.equal, steps(3, rest), wanted))
