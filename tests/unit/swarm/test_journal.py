import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shardline.core.errors import JournalLost
from shardline.core.ids import Seat, SessionId
from shardline.swarm import Journals
from shardline.swarm.journal import ENTRY_BYTES

LIMIT_BYTES = 4_000


def seat(number: int) -> Seat:
    return Seat(SessionId(f"{number:032x}"), 0)


def test_what_was_noted_can_be_sent_again_in_its_order() -> None:
    journals = Journals(LIMIT_BYTES)
    for step in range(4):
        journals.add(seat(1), step, [bytes([step]), memoryview(b"xy")])
    assert [entry.step for entry in journals.since(seat(1), 1)] == [1, 2, 3]
    assert journals.since(seat(1), 3)[0].segments == (b"\x03", b"xy")
    assert journals.since(seat(2), 0) == ()


def test_the_largest_seat_gives_up_all_but_its_last_step() -> None:
    journals = Journals(LIMIT_BYTES)
    journals.add(seat(1), 0, [bytes(1_000)])
    for step in range(3):
        journals.add(seat(2), step, [bytes(1_000)])
    with pytest.raises(JournalLost, match="before 2"):
        journals.since(seat(2), 0)
    assert [entry.step for entry in journals.since(seat(2), 2)] == [2]
    assert len(journals.since(seat(1), 0)) == 1


def test_only_the_last_step_is_kept_where_no_more_is_wanted() -> None:
    journals = Journals(LIMIT_BYTES)
    for step in range(9):
        journals.add(seat(1), step, [bytes(10)], only=True)
    last = journals.last(seat(1))
    assert last is not None
    assert last.step == 8
    assert journals.size_bytes == ENTRY_BYTES + 10


class Books(RuleBasedStateMachine):
    """Whatever is noted and dropped, the last steps stay and the books are right."""

    def __init__(self) -> None:
        super().__init__()
        self.journals = Journals(LIMIT_BYTES)
        self.steps: dict[int, int] = {}

    @rule(number=st.integers(0, 3), size=st.integers(0, 1_500), only=st.booleans())
    def add(self, number: int, size: int, *, only: bool) -> None:
        step = self.steps.get(number, 0)
        self.journals.add(seat(number), step, [bytes(size)], only=only)
        self.steps[number] = step + 1

    @rule(number=st.integers(0, 3))
    def drop(self, number: int) -> None:
        self.journals.drop(seat(number))
        self.steps.pop(number, None)

    @rule(number=st.integers(0, 3), since=st.integers(0, 9))
    def ask(self, number: int, since: int) -> None:
        steps = self.steps.get(number, 0)
        try:
            entries = self.journals.since(seat(number), since)
        except JournalLost:
            assert since < steps - 1
        else:
            assert [entry.step for entry in entries] == list(range(min(since, steps), steps))

    @invariant()
    def the_books_are_right(self) -> None:
        self.journals.check_integrity()
        for number, steps in self.steps.items():
            last = self.journals.last(seat(number))
            assert last is not None
            assert last.step == steps - 1
        largest_last = 4 * (ENTRY_BYTES + 1_500)
        assert self.journals.size_bytes <= max(LIMIT_BYTES, largest_last)


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=60, stateful_step_count=40)
