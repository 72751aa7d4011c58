from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from transformers.cache_utils import DynamicLayer

from shardline.core.spans import Span
from shardline.model import PAGE_TOKENS, ChainPlan, Crossing, LoadedSpan, Pages, load_span
from shardline.model.pages import PagedLayer
from tests.parity.chains import CPU
from tests.unit.model.test_span import crossing

if TYPE_CHECKING:
    from shardline.model import SessionCache
    from shardline.model.pages import Held

HEADS, KEY_WIDTH, VALUE_WIDTH = 2, 4, 3


def states(rows: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rows, HEADS, tokens, KEY_WIDTH), torch.randn(
        rows, HEADS, tokens, VALUE_WIDTH
    )


class Layers(RuleBasedStateMachine):
    """A layer of pages gives what Transformers' own gives, whatever came before."""

    kind: ClassVar[type[PagedLayer]] = PagedLayer

    def seen(self, states: torch.Tensor) -> torch.Tensor:
        """What comes back of it from a layer of this kind."""
        return states

    def held(self, pair: tuple[torch.Tensor, torch.Tensor]) -> Held:
        """A page of it, as this kind keeps it."""
        layer = self.kind()
        layer.update(*pair)
        found = layer.copied(0, PAGE_TOKENS)
        assert found is not None
        return found

    def __init__(self) -> None:
        super().__init__()
        self.rows = 1
        self.start(pages=0, room=None)

    def start(self, pages: int, room: int | None) -> None:
        prefix = [states(1, PAGE_TOKENS) for _ in range(pages)]
        self.shared = [self.held(pair) for pair in prefix]
        self.before = [tuple(tensor.clone() for tensor in held) for held in self.shared]
        self.layer, self.plain = self.kind(room, self.shared), cast("Any", DynamicLayer())
        for keys, values in prefix:
            self.plain.update(self.seen(keys), self.seen(values))

    @rule(pages=st.integers(0, 3), room=st.none() | st.integers(1, 200), rows=st.integers(1, 2))
    def begin(self, pages: int, room: int | None, rows: int) -> None:
        self.rows = 1 if pages else rows
        self.start(pages, room)

    @rule(tokens=st.integers(1, 150))
    def update(self, tokens: int) -> None:
        fresh = states(self.rows, tokens)
        found, wanted = self.layer.update(*fresh), self.plain.update(*map(self.seen, fresh))
        assert torch.equal(found[0], wanted[0])
        assert torch.equal(found[1], wanted[1])

    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        tokens = data.draw(st.integers(0, self.layer.get_seq_length()))
        self.layer.truncate(tokens)
        if self.plain.is_initialized and tokens < self.plain.get_seq_length():
            self.plain.crop(tokens - self.plain.get_seq_length())

    @rule()
    def copy(self) -> None:
        old, self.layer = self.layer, copy.deepcopy(self.layer)
        old.update(*states(self.rows, 1))  # which is no matter for the copy

    @invariant()
    def all_is_in_order(self) -> None:
        self.layer.check_integrity()
        assert self.layer.get_seq_length() == self.plain.get_seq_length()
        for now, before in zip(self.shared, self.before, strict=True):
            assert all(torch.equal(*pair) for pair in zip(now, before, strict=True))


TestLayers = Layers.TestCase
TestLayers.settings = settings(max_examples=25, stateful_step_count=15)


def test_what_was_reserved_is_one_run_of_pages_that_never_moves() -> None:
    layer = PagedLayer(3 * PAGE_TOKENS - 5)
    places: set[int] = set()
    for tokens in (1, 100, 1, 85):
        keys, _ = layer.update(*states(2, tokens))
        places.add(keys.data_ptr())
    assert len(places) == 1
    assert layer.room_tokens == 3 * PAGE_TOKENS


def test_other_rows_or_heads_than_before_are_refused_and_not_spread() -> None:
    layer = PagedLayer(10)
    layer.update(*states(2, 1))
    with pytest.raises(ValueError, match="rows and heads"):
        layer.update(*states(1, 1))


def test_pages_are_whole() -> None:
    with pytest.raises(ValueError, match="no whole pages"):
        Pages(PAGE_TOKENS + 1, {})


@pytest.fixture(scope="module")
def span(plan: ChainPlan) -> LoadedSpan:
    return load_span(plan, Span(1, 3), dtype=torch.float32, device=CPU)


def read(span: LoadedSpan, cache: SessionCache, step: Crossing) -> torch.Tensor:
    result = span.run(step, cache)
    assert isinstance(result, Crossing)
    span.check(cache, cache.tokens)
    return result.carried[0]


@given(kept=st.integers(1, 2), tokens=st.integers(2 * PAGE_TOKENS, 3 * PAGE_TOKENS))
@settings(max_examples=6)
def test_a_session_behind_anothers_pages_goes_on_as_that_other(
    span: LoadedSpan, kept: int, tokens: int
) -> None:
    prompt, after = crossing(tokens), crossing(1)
    first = span.new_cache(tokens + 10)
    read(span, first, prompt)
    pages = span.pages(first, 0, 2 * PAGE_TOKENS)
    assert pages is not None
    behind = kept * PAGE_TOKENS
    span.truncate(first, behind)
    other = span.new_cache(tokens + 10, [pages.first(kept)])
    assert torch.equal(read(span, first, after), read(span, other, after))
    assert torch.equal(read(span, first, after), read(span, other, after))
    assert other.memory_bytes == first.memory_bytes * 2 // (behind + 2)


def test_shared_tokens_are_not_a_sessions_own_to_give_on(span: LoadedSpan) -> None:
    first = span.new_cache()
    read(span, first, crossing(2 * PAGE_TOKENS))
    pages = span.pages(first, 0, PAGE_TOKENS)
    assert pages is not None
    other = span.new_cache(200, [pages])
    read(span, other, crossing(PAGE_TOKENS))
    assert span.pages(other, 0, PAGE_TOKENS) is None
    assert span.pages(other, PAGE_TOKENS, 2 * PAGE_TOKENS) is not None


def test_sessions_behind_the_same_pages_step_as_one_as_they_do_alone(span: LoadedSpan) -> None:
    first = span.new_cache()
    read(span, first, crossing(PAGE_TOKENS))
    pages = span.pages(first, 0, PAGE_TOKENS)
    assert pages is not None
    alone = [span.new_cache(100, [pages]) for _ in range(2)]
    merged = [span.new_cache(100, [pages]) for _ in range(2)]
    for _ in range(3):  # the first time they are run both ways
        steps = [crossing(1), crossing(1)]
        found = span.run_together(list(zip(steps, merged, strict=True)))
        for step, cache, result in zip(steps, alone, found, strict=True):
            assert isinstance(result, Crossing)
            wanted = read(span, cache, step)
            assert torch.allclose(result.carried[0], wanted, rtol=1e-3, atol=1e-3)
            span.check(merged[0], cache.tokens)
    assert span.together.tried == [True]
