from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from transformers import Cache, DynamicCache

from shardline.core.errors import CacheFull, PeerFault, SessionUnknown, ShardlineError
from shardline.core.ids import Seat, SessionId
from shardline.core.spans import Span
from shardline.model import Call, Crossing, Pages, Returned
from shardline.runtime import SpanEngine
from shardline.runtime.engine import SESSION_IDLE_S

WHOLE = Span(0, 4)
Found = Crossing | Returned | ShardlineError


class Seen(DynamicCache):
    """A cache that keeps the first element of every token of the first row."""

    def __init__(self, shared: Sequence[Pages] = ()) -> None:
        super().__init__()
        self.seen = [float(x) for pages in shared for x in pages.layers[0][0].reshape(-1)]


def seen_by(engine: SpanEngine, number: int) -> list[float]:
    """What a session's cache holds."""
    cache = cast("Any", engine)._sessions[session(number)].cache  # noqa: SLF001
    assert isinstance(cache, Seen)
    return cache.seen


class Doubler:
    """A span whose work is plain to see: it doubles what crosses, and remembers it."""

    def __init__(self, span: Span = WHOLE) -> None:
        self.span = span

    def part(self, span: Span) -> "Doubler":
        return Doubler(span)

    def new_cache(self, tokens: int, shared: Sequence[Pages] = ()) -> Seen:
        del tokens
        return Seen(shared)

    def pages(self, cache: Cache, first: int, stop: int) -> Pages | None:
        assert isinstance(cache, Seen)
        kept = torch.tensor(cache.seen[first:stop]).reshape(1, 1, -1, 1)
        return Pages(stop - first, {0: (kept, kept)})

    def truncate(self, cache: Cache, tokens: int) -> None:
        assert isinstance(cache, Seen)
        del cache.seen[tokens:]

    def check(self, cache: Cache, tokens: int) -> None:
        assert isinstance(cache, Seen)
        assert len(cache.seen) == tokens

    def run_together(self, steps: Sequence[tuple[Crossing, Cache]]) -> list[Found]:
        for step, cache in steps:
            assert isinstance(cache, Seen)
            cache.seen += [float(x) for x in step.carried[0][0, :, 0]]
        return [step.after(self.span.stop, (step.carried[0] * 2,)) for step, _ in steps]

    def pieces(self, crossing: Crossing, cache: Cache, tokens: int) -> list[Crossing]:
        del cache
        return [
            Crossing(
                crossing.start,
                (crossing.carried[0][:, first : first + tokens],),
                crossing.calls,
                crossing.order,
            )
            for first in range(0, crossing.tokens, tokens)
        ]

    def joined(self, crossing: Crossing, parts: Sequence[Crossing | Returned]) -> Crossing:
        hidden = [part.carried[0] for part in parts if isinstance(part, Crossing)]
        return crossing.after(self.span.stop, (torch.cat(hidden, dim=1),))


def crossing(rows: int, tokens: int, span: Span = WHOLE) -> Crossing:
    order = (0,) * (8 - span.start)
    return Crossing(span.start, (torch.ones(rows, tokens, 2),), (Call((), {}),), order)


def session(number: int) -> Seat:
    return Seat(SessionId(f"{number:032x}"), 0)


def test_a_step_goes_through_the_sessions_own_part_of_the_span() -> None:
    engine = SpanEngine(Doubler(), cache_tokens=100)
    engine.open(session(1), Span(1, 3), rows=1, tokens=10, now_s=0.0)
    out = engine.step(session(1), crossing(1, 4, Span(1, 3)), now_s=0.0)
    assert isinstance(out, Crossing)
    assert out.start == 3
    assert torch.equal(out.carried[0], torch.full((1, 4, 2), 2.0))


def test_a_full_cache_says_what_was_asked_and_what_is_free() -> None:
    engine = SpanEngine(Doubler(), cache_tokens=100)
    engine.open(session(1), WHOLE, rows=2, tokens=30, now_s=0.0)
    with pytest.raises(CacheFull, match="50 cache tokens were asked, 40 are free"):
        engine.open(session(2), WHOLE, rows=1, tokens=50, now_s=0.0)
    engine.close(session(1))
    engine.open(session(2), WHOLE, rows=1, tokens=50, now_s=0.0)


def test_a_session_cannot_outgrow_what_it_reserved() -> None:
    engine = SpanEngine(Doubler(), cache_tokens=100)
    engine.open(session(1), WHOLE, rows=1, tokens=5, now_s=0.0)
    engine.step(session(1), crossing(1, 4), now_s=0.0)
    with pytest.raises(CacheFull):
        engine.step(session(1), crossing(1, 2), now_s=0.0)
    engine.step(session(1), crossing(1, 1), now_s=0.0)
    with pytest.raises(CacheFull):
        engine.step(session(1), crossing(2, 0), now_s=0.0)


def test_an_encoders_states_count_against_what_a_session_reserved() -> None:
    engine = SpanEngine(Doubler(), cache_tokens=100)
    engine.open(session(1), WHOLE, rows=1, tokens=8, now_s=0.0)
    with pytest.raises(CacheFull, match="a step to 1 x 9 tokens, but 1 x 8 were reserved"):
        engine.step(session(1), replace(crossing(1, 2), kept=(torch.ones(1, 7, 2),)), now_s=0.0)
    engine.step(session(1), replace(crossing(1, 2), kept=(torch.ones(1, 5, 2),)), now_s=0.0)
    engine.step(session(1), crossing(1, 1), now_s=0.0)
    with pytest.raises(CacheFull):
        engine.step(session(1), crossing(1, 1), now_s=0.0)


def test_nobody_steps_a_session_that_is_not_open() -> None:
    engine = SpanEngine(Doubler(), cache_tokens=100)
    with pytest.raises(SessionUnknown):
        engine.step(session(1), crossing(1, 1), now_s=0.0)


@pytest.mark.parametrize(("rows", "tokens"), [(0, 5), (-3, -5), (1, 0)])
def test_a_session_of_nothing_is_nonsense(rows: int, tokens: int) -> None:
    engine = SpanEngine(Doubler(), cache_tokens=100)
    with pytest.raises(PeerFault):
        engine.open(session(1), WHOLE, rows=rows, tokens=tokens, now_s=0.0)


def test_sessions_stay_when_the_engine_is_given_other_blocks() -> None:
    engine = SpanEngine(Doubler(), cache_tokens=100)
    engine.open(session(1), Span(0, 2), rows=1, tokens=60, now_s=0.0)
    engine.hold(Doubler(Span(2, 4)), cache_tokens=50)
    engine.check_integrity()
    assert engine.report().cache_tokens_free == 0
    out = engine.step(session(1), crossing(1, 4), now_s=0.0)
    assert isinstance(out, Crossing)
    assert out.start == 2
    engine.close(session(1))
    assert engine.report().cache_tokens_free == 60


def test_an_idle_session_gives_its_cache_back() -> None:
    engine = SpanEngine(Doubler(), cache_tokens=100)
    engine.open(session(1), WHOLE, rows=1, tokens=60, now_s=0.0)
    engine.open(session(2), WHOLE, rows=1, tokens=40, now_s=0.0)
    engine.step(session(2), crossing(1, 1), now_s=SESSION_IDLE_S)
    assert engine.expire(SESSION_IDLE_S + 1) == [session(1)]
    assert engine.report().cache_tokens_free == 60


class Engine(RuleBasedStateMachine):
    """Any order of opening, stepping, closing and waiting keeps the books right."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = SpanEngine(Doubler(), cache_tokens=64)
        self.now_s = 0.0
        self.reserved: dict[int, int] = {}

    @rule(number=st.integers(0, 3), rows=st.integers(1, 3), tokens=st.integers(1, 40))
    def open(self, number: int, rows: int, tokens: int) -> None:
        free = 64 - sum(self.reserved.values())
        if number in self.reserved:
            with pytest.raises(PeerFault):
                self.engine.open(session(number), WHOLE, rows=rows, tokens=tokens, now_s=self.now_s)
        elif rows * tokens > free:
            with pytest.raises(CacheFull, match=f"{free} are free"):
                self.engine.open(session(number), WHOLE, rows=rows, tokens=tokens, now_s=self.now_s)
        else:
            self.engine.open(session(number), WHOLE, rows=rows, tokens=tokens, now_s=self.now_s)
            self.reserved[number] = rows * tokens

    @rule(number=st.integers(0, 3), rows=st.integers(1, 3), tokens=st.integers(1, 9))
    def step(self, number: int, rows: int, tokens: int) -> None:
        try:
            self.engine.step(session(number), crossing(rows, tokens), now_s=self.now_s)
        except CacheFull:
            assert number in self.reserved
        except SessionUnknown:
            assert number not in self.reserved

    @rule(number=st.integers(0, 3))
    def close(self, number: int) -> None:
        self.engine.close(session(number))
        self.reserved.pop(number, None)

    @rule(seconds=st.floats(0, SESSION_IDLE_S * 0.7))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        for gone in self.engine.expire(self.now_s):
            del self.reserved[int(gone.session, 16)]

    @invariant()
    def the_books_are_right(self) -> None:
        self.engine.check_integrity()
        report = self.engine.report()
        assert report.sessions == len(self.reserved)
        assert report.cache_tokens_free == 64 - sum(self.reserved.values())


TestEngine = Engine.TestCase
TestEngine.settings = settings(max_examples=60, stateful_step_count=30)
