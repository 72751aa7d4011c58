import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shardline.core.errors import CacheFull, PeerFault, SessionUnknown
from shardline.core.spans import Span
from shardline.model import PAGE_TOKENS, Call, Crossing
from shardline.runtime import Named, SpanEngine
from shardline.runtime.engine import PREFIX_IDLE_S
from tests.unit.runtime.test_engine import WHOLE, Doubler, seen_by, session

PAGES = 8
ROOM = PAGES * PAGE_TOKENS


def named(prompt: str, owner: str = "me") -> Named:
    """A prompt of one letter a page: each page is named by all letters up to it."""
    digests = tuple(prompt[:end].encode() for end in range(1, len(prompt) + 1))
    return Named(owner, digests)


def tokens_of(prompt: str, first: int = 0) -> list[float]:
    return [float(ord(letter)) for letter in prompt[first:] for _ in range(PAGE_TOKENS)]


def reading(prompt: str, first: int = 0) -> Crossing:
    """A step of all pages of the prompt from this one on."""
    hidden = torch.tensor(tokens_of(prompt, first)).reshape(1, -1, 1).expand(-1, -1, 2)
    return Crossing(0, (hidden,), (Call((), {}),), (0,) * 8)


def engine_with(*prompts: str) -> SpanEngine:
    """An engine that keeps these prompts' pages, of sessions that are over."""
    engine = SpanEngine(Doubler(), cache_tokens=ROOM)
    for number, prompt in enumerate(prompts, start=100):
        held = engine.open(
            session(number), WHOLE, rows=1, tokens=ROOM // 2, now_s=0.0, named=named(prompt)
        )
        if held:
            engine.attach(session(number), held)
        engine.step(session(number), reading(prompt, held), now_s=0.0)
        engine.close(session(number))
        engine.check_integrity()
    return engine


def opened(engine: SpanEngine, prompt: str, owner: str = "me", span: Span = WHOLE) -> int:
    names = named(prompt, owner)
    return engine.open(session(1), span, rows=1, tokens=4 * PAGE_TOKENS, now_s=1.0, named=names)


@pytest.mark.parametrize(("prompt", "pages"), [("ab", 2), ("abc", 2), ("ad", 1), ("b", 0)])
def test_a_session_finds_the_pages_of_what_it_begins_with(prompt: str, pages: int) -> None:
    assert opened(engine_with("ab"), prompt) == pages


def test_pages_are_found_by_their_caller_and_on_their_blocks_only() -> None:
    assert opened(engine_with("ab"), "ab", owner="you") == 0
    assert opened(engine_with("ab"), "ab", span=Span(0, 2)) == 0


def test_idle_pages_are_free_room_and_held_ones_are_not() -> None:
    engine = engine_with("ab")
    assert engine.report().cache_tokens_free == ROOM
    assert opened(engine, "abc") == 2
    assert engine.report().cache_tokens_free == ROOM - 6 * PAGE_TOKENS
    engine.attach(session(1), 2)
    assert engine.report().cache_tokens_free == ROOM - 4 * PAGE_TOKENS
    engine.check_integrity()


def test_pages_go_when_a_reservation_needs_their_room_the_longest_unused_first() -> None:
    engine = engine_with("ab", "cd")
    engine.open(session(1), WHOLE, rows=1, tokens=ROOM - 2 * PAGE_TOKENS, now_s=1.0)
    engine.check_integrity()
    engine.close(session(1))
    assert opened(engine, "ab") == 0
    engine.close(session(1))
    assert opened(engine, "cd") == 2


def test_a_session_that_needs_all_room_does_without_the_pages_it_could_begin_with() -> None:
    engine = engine_with("ab")
    assert engine.open(session(1), WHOLE, rows=1, tokens=ROOM, now_s=1.0, named=named("ab")) == 0
    engine.check_integrity()


def test_a_session_that_steps_without_its_pages_gives_them_back() -> None:
    engine = engine_with("ab")
    assert opened(engine, "ab") == 2
    engine.step(session(1), reading("ab"), now_s=1.0)
    engine.check_integrity()
    with pytest.raises(SessionUnknown):
        engine.attach(session(1), 1)


def test_pages_that_nobody_begins_with_go_in_time() -> None:
    engine = engine_with("ab", "abc")
    engine.expire(PREFIX_IDLE_S + 1)
    engine.check_integrity()
    assert opened(engine, "ab") == 0


def test_pages_of_blocks_that_are_given_up_are_not_found_and_go_with_who_holds_them() -> None:
    engine = engine_with("ab")
    opened(engine, "ab")
    engine.attach(session(1), 2)
    engine.hold(Doubler(), cache_tokens=ROOM)
    engine.check_integrity()
    engine.step(session(1), reading("abc", 2), now_s=1.0)
    engine.close(session(1))
    engine.check_integrity()
    assert opened(engine, "ab") == 0


def test_a_truncated_session_parts_from_shared_pages_if_there_is_room() -> None:
    engine = engine_with("abc")
    opened(engine, "abcd")
    engine.attach(session(1), 3)
    engine.open(session(2), WHOLE, rows=1, tokens=4 * PAGE_TOKENS, now_s=1.0)
    with pytest.raises(CacheFull):
        engine.truncate(session(1), PAGE_TOKENS + 1)
    with pytest.raises(PeerFault):
        engine.truncate(session(1), ROOM)
    engine.close(session(2))
    engine.truncate(session(1), PAGE_TOKENS + 1)
    engine.check_integrity()


class Sharing(RuleBasedStateMachine):
    """Any order of sessions that begin alike: the books are right, and nobody reads others' tokens.

    The second caller's prompts look the same and hold other tokens.
    """

    def __init__(self) -> None:
        super().__init__()
        self.engine = SpanEngine(Doubler(), cache_tokens=ROOM)
        self.now_s = 0.0
        self.prompts: dict[int, str] = {}
        self.seen: dict[int, list[float]] = {}

    @rule(
        number=st.integers(0, 3),
        prompt=st.text("ab", min_size=1, max_size=4),
        more=st.integers(1, PAGE_TOKENS),
        shares=st.booleans(),
        steps=st.booleans(),
    )
    def open(self, number: int, prompt: str, more: int, *, shares: bool, steps: bool) -> None:
        if number in self.seen:
            return
        tokens, owner = len(prompt) * PAGE_TOKENS + more, f"caller {number % 2}"
        names = named(prompt, owner)
        seat, now_s = session(number), self.now_s
        try:
            held = self.engine.open(seat, WHOLE, rows=1, tokens=tokens, now_s=now_s, named=names)
        except CacheFull:
            assert tokens > self.engine.report().cache_tokens_free
            return
        written = prompt.upper() if number % 2 else prompt
        self.prompts[number], self.seen[number] = written, []
        if held and shares:
            self.engine.attach(seat, held)
            self.seen[number] = tokens_of(written[:held])
        if steps:
            self.read(number)

    @rule(number=st.integers(0, 3))
    def read(self, number: int) -> None:
        pages, rest = divmod(len(self.seen.get(number, ())), PAGE_TOKENS)
        if number not in self.seen or rest or pages == len(self.prompts[number]):
            return
        step = reading(self.prompts[number], pages)
        self.engine.step(session(number), step, now_s=self.now_s)
        self.seen[number] += tokens_of(self.prompts[number], pages)

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.seen)))
        tokens = data.draw(st.integers(0, len(self.seen[number])))
        try:
            self.engine.truncate(session(number), tokens)
        except CacheFull:
            return
        del self.seen[number][tokens:]

    @rule(number=st.integers(0, 3))
    def close(self, number: int) -> None:
        self.engine.close(session(number))
        self.seen.pop(number, None)

    @rule()
    def change_blocks(self) -> None:
        self.engine.hold(Doubler(), cache_tokens=ROOM)

    @rule(seconds=st.floats(0, PREFIX_IDLE_S * 0.7))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        for gone in self.engine.expire(self.now_s):
            del self.seen[int(gone.session, 16)]

    @invariant()
    def the_books_are_right(self) -> None:
        self.engine.check_integrity()
        assert 0 <= self.engine.report().cache_tokens_free <= ROOM
        for number, seen in self.seen.items():
            assert seen_by(self.engine, number) == seen


TestSharing = Sharing.TestCase
TestSharing.settings = settings(max_examples=60, stateful_step_count=25)
