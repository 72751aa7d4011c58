"""Which option is the answer, and the questions that come with shardline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shardline.evaluation import (
    MINIATURES,
    Asked,
    Questions,
    Weigher,
    Weight,
    choice,
    shipped_questions,
    shipped_text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


class Spelled(Weigher):
    """Weighs a text by its letters alone: each costs a nat, `!` next to nothing."""

    def __init__(self) -> None:
        """Without a model."""

    def weigh(self, pairs: Sequence[tuple[str, str]]) -> list[Weight]:
        costs = [sum(0.1 if sign == "!" else 1.0 for sign in text.strip()) for _, text in pairs]
        return [Weight(-cost, (), greedy=False) for cost in costs]


def test_the_likeliest_option_is_the_answer_or_the_likeliest_per_byte() -> None:
    options = ("ab!!!!!!!!!!", "ab")  # 3 nats over 12 bytes, 2 over 2
    asked = (Asked("Say", options, 0),)
    spelled = Spelled()
    by_byte = Questions("endings", asked, per_byte=True).measure(spelled)
    assert (by_byte.answers, by_byte.right) == (("ab!!!!!!!!!!",), (True,))
    plain = Questions("words", asked).measure(spelled)
    assert (plain.answers, plain.right) == (("ab",), (False,))


def test_of_equal_options_the_first_is_the_answer() -> None:
    weights = [Weight(-1.0, (), greedy=False)] * 2
    assert choice(("a", "b"), weights, per_byte=False) == 0


@pytest.mark.parametrize("name", MINIATURES)
def test_shipped_questions_have_one_right_answer_among_distinct_options(name: str) -> None:
    task = shipped_questions(name)
    assert task.name == name
    assert len(task.asked) == 500
    for one in task.asked:
        assert len(set(one.options)) == len(one.options) >= 2
        assert 0 <= one.answer < len(one.options)
    assert shipped_questions(name, 3).asked == task.asked[:3]


def test_only_endings_are_weighed_per_byte() -> None:
    assert [name for name in MINIATURES if shipped_questions(name, 1).per_byte] == ["ending"]


def test_shipped_stories_are_different_ones() -> None:
    task = shipped_text("perplexity")
    assert len(set(task.texts)) == len(task.texts) == 200
