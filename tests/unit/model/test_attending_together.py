"""In bfloat16 lone tokens are asked by our kernel: alone, and all sessions of a step at once."""

from __future__ import annotations

import copy
import random
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.codec import Marker
from shardline.core.errors import StepFailed
from shardline.core.spans import Span
from shardline.kernels import attend, can_attend
from shardline.model import CACHES, PAGE_TOKENS, ChainPlan, Crossing, LoadedSpan, load_span
from shardline.model import attending as module
from shardline.model.crossing import Call
from shardline.model.pages import PagedLayer
from tests.parity.chains import CPU

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardline.kernels import Runs
    from shardline.model import SessionCache

BLOCKS = 2
ONE = torch.zeros(1, 1, 1, 16).bfloat16()
here = pytest.mark.skipif(not can_attend(ONE, ONE, ONE), reason="no kernel on this machine")


@pytest.fixture(scope="module")
def span(plan: ChainPlan) -> LoadedSpan:
    return load_span(plan, Span(1, 1 + BLOCKS), dtype=torch.bfloat16, device=CPU)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sessions each call of the kernel was for."""
    counts: list[int] = []

    def seen(
        query: torch.Tensor, sessions: Sequence[tuple[int, Runs]], *rest: Any, **more: Any
    ) -> torch.Tensor:
        counts.append(len(sessions))
        return attend(query, sessions, *rest, **more)

    monkeypatch.setattr(module, "attend", seen)
    return counts


def step(
    tokens: int = 1,
    rows: int = 1,
    mask: torch.Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Crossing:
    turns = torch.randn(2, 1, tokens, 16).to(dtype)
    kwargs: dict[str, Any] = {
        "position_embeddings": (turns[0], turns[1]),
        "attention_mask": mask,
        "past_key_values": Marker("cache"),
    }
    carried = torch.randn(rows, tokens, 64).to(dtype)
    return Crossing(1, (carried,), (Call((Marker("carried"),), kwargs),), (0, 0, 0))


def run(span: LoadedSpan, crossing: Crossing, cache: SessionCache) -> torch.Tensor:
    result = span.run(crossing, cache)
    assert isinstance(result, Crossing)
    span.check(cache, cache.tokens)
    return result.carried[0]


def begun(span: LoadedSpan, tokens: int, rows: int = 1, room: int | None = 300) -> SessionCache:
    cache = span.new_cache(room)
    run(span, step(tokens, rows), cache)
    return cache


def learnt(span: LoadedSpan) -> None:
    """Steps of two were tried, and may be merged."""
    for _ in range(2):
        span.run_together([(step(), begun(span, 3)), (step(), begun(span, 4))])
    assert set(span.together.tried) == {True}


def behind_pages(span: LoadedSpan, pages: int, tokens: int) -> SessionCache:
    first = begun(span, pages * PAGE_TOKENS)
    shared = span.pages(first, 0, pages * PAGE_TOKENS)
    assert shared is not None
    cache = span.new_cache(300, [shared])
    run(span, step(tokens), cache)
    return cache


@here
@pytest.mark.parametrize("seed", range(3))
def test_together_they_have_the_very_bits_that_they_have_alone(
    span: LoadedSpan, calls: list[int], seed: int
) -> None:
    learnt(span)
    coarse = LoadedSpan(span.plan, span.span, span.blocks, CACHES["int8"])
    kinds = [
        (begun(span, 5), 1),
        (begun(span, 150), 1),
        (begun(span, 62, room=None), 1),
        (begun(span, 70, rows=3), 3),
        (behind_pages(span, 1, 1), 1),
        (behind_pages(span, 2, 63), 1),
        (begun(coarse, 40), 1),
        (begun(coarse, 9, rows=2), 2),
    ]
    random.Random(seed).shuffle(kinds)
    plain = sum(
        all(type(layer) is PagedLayer for layer in cache.layers[1 : 1 + BLOCKS])
        for cache, _ in kinds
    )
    alone = [copy.deepcopy(cache) for cache, _ in kinds]
    for turn in range(4):
        steps = [step(rows=rows) for _, rows in kinds]
        calls.clear()
        found = span.run_together(
            [(one, cache) for one, (cache, _) in zip(steps, kinds, strict=True)]
        )
        if turn:  # at first it is tried whether they can be done from what is written down
            assert calls == ([plain] + [1] * (len(kinds) - plain)) * BLOCKS
        for one, other, (cache, _), result in zip(steps, alone, kinds, found, strict=True):
            assert isinstance(result, Crossing)
            span.check(cache, other.tokens + 1)
            assert torch.equal(result.carried[0], run(span, one, other))


@here
def test_prompts_and_masks_beside_them_change_nothing(span: LoadedSpan, calls: list[int]) -> None:
    learnt(span)
    span.run_together([(step(3), span.new_cache(9)), (step(4), span.new_cache(9))])
    caches = [begun(span, 20), begun(span, 30), begun(span, 6), begun(span, 10)]
    alone = [copy.deepcopy(cache) for cache in caches]
    mask = torch.ones(1, 1, 1, 31, dtype=torch.bool)
    mask[..., :4] = False
    steps = [step(), step(mask=mask), step(5), step()]
    calls.clear()
    found = span.run_together(list(zip(steps, caches, strict=True)))
    assert calls == [2] * BLOCKS
    for one, cache, result in zip(steps, alone, found, strict=True):
        assert isinstance(result, Crossing)
        assert torch.equal(result.carried[0], run(span, one, cache))


@here
def test_a_session_whose_cache_is_wrong_fails_alone(span: LoadedSpan) -> None:
    learnt(span)
    caches = [begun(span, 7), begun(span, 8, rows=2), begun(span, 9)]
    alone = [copy.deepcopy(cache) for cache in caches]
    steps = [step() for _ in caches]
    found = span.run_together(list(zip(steps, caches, strict=True)))
    assert isinstance(found[1], StepFailed)
    assert "1 rows" in str(found[1])
    for index in (0, 2):
        result = found[index]
        assert isinstance(result, Crossing)
        assert torch.equal(result.carried[0], run(span, steps[index], alone[index]))


@here
def test_a_lone_session_is_asked_by_it_for_each_token_that_is_alone(
    span: LoadedSpan, calls: list[int]
) -> None:
    cache = begun(span, 3)
    assert not calls
    run(span, step(2), cache)
    run(span, step(mask=torch.ones(1, 1, 1, 6, dtype=torch.bool)), cache)
    assert not calls
    run(span, step(), cache)
    assert calls == [1] * BLOCKS


@here
def test_float32_has_transformers_own_way(plan: ChainPlan, calls: list[int]) -> None:
    exact = load_span(plan, Span(1, 1 + BLOCKS), dtype=torch.float32, device=CPU)
    caches = [exact.new_cache(90), exact.new_cache(90)]
    for tokens in (3, 1, 1):
        steps = [(step(tokens, dtype=torch.float32), cache) for cache in caches]
        assert all(isinstance(one, Crossing) for one in exact.run_together(steps))
    run(exact, step(dtype=torch.float32), caches[0])
    assert not calls


@here
def test_other_sessions_of_a_step_are_not_asked_for_what_one_holds(span: LoadedSpan) -> None:
    learnt(span)
    caches = [begun(span, 70), begun(span, 70)]
    alone = copy.deepcopy(caches[1])
    held: Any = caches[0]
    for keys in (layer._own[0] for layer in held.layers[1 : 1 + BLOCKS]):  # noqa: SLF001
        keys[:, :, 3] = torch.nan
    steps = [step(), step()]
    found = span.run_together(list(zip(steps, caches, strict=True)))
    assert isinstance(found[0], Crossing)
    assert bool(found[0].carried[0].isnan().any())
    assert isinstance(found[1], Crossing)
    assert torch.equal(found[1].carried[0], run(span, steps[1], alone))


def pair(rows: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rows, 2, tokens, 16).bfloat16(), torch.randn(rows, 2, tokens, 32).bfloat16()


@here
@given(
    moves=st.lists(st.sampled_from(["one", "more", "back", "copy", "forget"]), max_size=12),
    pages=st.integers(0, 2),
    room=st.none() | st.integers(1, 200),
    rows=st.integers(1, 2),
)
@settings(max_examples=60)
def test_what_is_written_in_place_is_what_was_taken(
    moves: list[str], pages: int, room: int | None, rows: int
) -> None:
    rows = 1 if pages else rows
    shared = [pair(1, PAGE_TOKENS) for _ in range(pages)]
    layer, other = PagedLayer(room, shared), PagedLayer(room, shared)
    for move in moves:
        if move in {"one", "more"}:
            fresh = pair(rows, 1)
            other.update(*fresh)
            if move == "one":
                flat = fresh[0].transpose(0, 2), fresh[1].transpose(0, 2)
                attend(ONE.expand(1, 2, rows, 16), [(0, layer.reached(rows, flat, FORM))], flat)
            else:
                layer.update(*fresh)
        elif move == "back":
            for one in (layer, other):
                one.truncate(one.get_seq_length() // 2)
        elif move == "copy":
            layer = copy.deepcopy(layer)
        else:
            for one in (layer, other):
                one.truncate(0)
        layer.check_integrity()
        assert layer.get_seq_length() == other.get_seq_length()
    last = pair(rows, 1)
    for one, two in zip(layer.update(*last), other.update(*last), strict=True):
        assert torch.equal(one, two)


FORM = 2, (16, 32)


@here
@pytest.mark.parametrize(
    ("rows", "form"), [(2, FORM), (1, (3, (16, 32))), (1, (2, (32, 32))), (1, (2, (16, 16)))]
)
def test_other_forms_than_before_are_refused(rows: int, form: tuple[int, tuple[int, int]]) -> None:
    layer = PagedLayer(10)
    layer.update(*pair(1, 3))
    with pytest.raises(ValueError, match="rows of"):
        layer.reached(rows, pair(1, 1), form)
    assert layer.get_seq_length() == 3
