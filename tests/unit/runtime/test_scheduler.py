import itertools

from hypothesis import given
from hypothesis import strategies as st

from shardline.core.errors import CacheFull, SessionUnknown
from shardline.core.spans import Span
from shardline.model import STEP_TOKENS, Crossing
from shardline.runtime import Scheduler, SpanEngine
from shardline.runtime.scheduler import ROUND_TOKENS
from tests.unit.runtime.test_engine import WHOLE, Doubler, crossing, session

FEW = ROUND_TOKENS // 4


def engine_of(*numbers: int) -> SpanEngine:
    """Sessions of one row, each with room for much."""
    engine = SpanEngine(Doubler(), cache_tokens=100_000)
    for number in numbers:
        engine.open(session(number), WHOLE, rows=1, tokens=5_000, now_s=0.0)
    return engine


def rounds(scheduler: Scheduler) -> list[list[int]]:
    """Round by round, whose steps were over."""
    seen: list[list[int]] = []
    while len(scheduler):
        assert len(seen) < 1_000
        seen.append([int(seat.session, 16) for seat, _ in scheduler.round(now_s=0.0)])
    return seen


def test_sessions_that_write_share_a_round() -> None:
    scheduler = Scheduler(engine_of(1, 2, 3))
    for number in (1, 2, 3):
        scheduler.add(session(number), crossing(1, 1))
    assert rounds(scheduler) == [[1, 2, 3]]


def test_a_round_takes_no_more_writers_than_it_is_told_to() -> None:
    scheduler = Scheduler(engine_of(1, 2, 3, 4))
    for number in (1, 2, 3):
        scheduler.add(session(number), crossing(1, 1))
    scheduler.add(session(4), crossing(1, FEW))
    assert scheduler.writers == 3
    first = scheduler.round(now_s=0.0, writers=2)
    assert [int(seat.session, 16) for seat, _ in first] == [1, 2, 4]
    assert scheduler.writers == 1
    assert rounds(scheduler) == [[3]]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=40))
def test_whoever_came_first_writes_first_however_few_a_round_takes(writers: list[int]) -> None:
    sessions = range(1, 13)
    scheduler = Scheduler(engine_of(*sessions))
    for number in sessions:
        scheduler.add(session(number), crossing(1, 1))
    wrote: list[int] = []
    for most in writers:
        over = scheduler.round(now_s=0.0, writers=most)
        assert len(over) == most
        for seat, _ in over:
            scheduler.add(seat, crossing(1, 1))
            wrote.append(int(seat.session, 16))
    assert wrote == list(itertools.islice(itertools.cycle(sessions), len(wrote)))


def test_who_writes_does_not_wait_for_a_prompt() -> None:
    scheduler = Scheduler(engine_of(1, 2))
    scheduler.add(session(1), crossing(1, 3 * ROUND_TOKENS))
    scheduler.add(session(2), crossing(1, 1))
    assert rounds(scheduler) == [[2], [], [1]]


def test_a_short_prompt_overtakes_a_long_one() -> None:
    scheduler = Scheduler(engine_of(1, 2))
    scheduler.add(session(1), crossing(1, 8 * ROUND_TOKENS))
    scheduler.add(session(2), crossing(1, ROUND_TOKENS))
    assert rounds(scheduler)[:2] == [[], [2]]


def test_short_prompts_share_a_round() -> None:
    scheduler = Scheduler(engine_of(1, 2, 3, 4, 5))
    for number in (1, 2, 3, 4, 5):
        scheduler.add(session(number), crossing(1, FEW))
    assert rounds(scheduler) == [[1, 2, 3, 4], [5]]


def test_a_step_that_is_not_of_tokens_has_a_round_of_its_own() -> None:
    scheduler = Scheduler(engine_of(1, 2, 3, 4))
    for number in (1, 2, 3):
        scheduler.add(session(number), crossing(1, STEP_TOKENS))
    scheduler.add(session(4), crossing(1, 1))
    assert rounds(scheduler) == [[4, 1], [2], [3]]


def test_a_session_that_is_alone_is_not_cut() -> None:
    scheduler = Scheduler(engine_of(1))
    scheduler.add(session(1), crossing(1, 9 * ROUND_TOKENS))
    assert rounds(scheduler) == [[1]]


def test_a_dropped_step_is_not_run_on() -> None:
    engine = engine_of(1, 2)
    scheduler = Scheduler(engine)
    scheduler.add(session(1), crossing(1, 9 * ROUND_TOKENS))
    scheduler.add(session(2), crossing(1, 1))
    assert [seat for seat, _ in scheduler.round(now_s=0.0)] == [session(2)]
    scheduler.drop(session(1))
    engine.close(session(1))
    assert len(scheduler) == 0
    assert scheduler.round(now_s=0.0) == []


def test_what_is_refused_is_over_at_once_and_stops_nobody() -> None:
    engine = engine_of(1, 2)
    engine.open(session(3), WHOLE, rows=1, tokens=ROUND_TOKENS, now_s=0.0)
    scheduler = Scheduler(engine)
    scheduler.add(session(3), crossing(1, 2 * ROUND_TOKENS))
    scheduler.add(session(4), crossing(1, 1))
    scheduler.add(session(1), crossing(1, 1))
    found = dict(scheduler.round(now_s=0.0))
    assert isinstance(found[session(3)], CacheFull)
    assert isinstance(found[session(4)], SessionUnknown)
    assert isinstance(found[session(1)], Crossing)
    assert len(scheduler) == 0


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3 * ROUND_TOKENS)), max_size=6))
def test_every_step_ends_whole_once_and_no_round_is_too_long(steps: list[tuple[int, int]]) -> None:
    engine = SpanEngine(Doubler(), cache_tokens=100_000)
    scheduler = Scheduler(engine)
    for number, (rows, tokens) in enumerate(steps):
        engine.open(session(number), WHOLE, rows=rows, tokens=tokens, now_s=0.0)
        scheduler.add(session(number), crossing(rows, tokens))
    ended: dict[int, tuple[int, ...]] = {}
    writers = sum(rows for rows, tokens in steps if tokens == 1)
    while len(scheduler):
        for seat, found in scheduler.round(now_s=0.0):
            assert isinstance(found, Crossing)
            number = int(seat.session, 16)
            assert number not in ended
            ended[number] = tuple(found.carried[0].shape)
            assert bool((found.carried[0] == 2).all())
        engine.check_integrity()
        assert len(steps) < 2 or scheduler.last_tokens <= writers + ROUND_TOKENS
    assert ended == {n: (rows, tokens, 2) for n, (rows, tokens) in enumerate(steps)}


def test_the_rest_of_a_cut_step_goes_on_from_the_sessions_own_span() -> None:
    engine = SpanEngine(Doubler(), cache_tokens=100_000)
    for number in (1, 2):
        engine.open(session(number), Span(1, 3), rows=1, tokens=500, now_s=0.0)
    scheduler = Scheduler(engine)
    scheduler.add(session(1), crossing(1, 2 * ROUND_TOKENS, Span(1, 3)))
    ended = [found for _ in range(2) for _, found in scheduler.round(now_s=0.0)]
    assert [found.start for found in ended if isinstance(found, Crossing)] == [3]
