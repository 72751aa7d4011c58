"""Scoring without a model: which option wins, per byte or not, and the interval of a share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from evals.fable import Kind, Question
from evals.fable.score import Scorer, score_questions, table
from shardline.evaluation import Weight

if TYPE_CHECKING:
    from collections.abc import Sequence


class Spelled(Scorer):
    """Weighs an option by its letters alone; `!` is likely, all else is not; greedy writes `!`."""

    def __init__(self) -> None:
        self.model = torch.nn.Identity()
        self.device = "cpu"

    def weigh(self, pairs: Sequence[tuple[str, str]]) -> list[Weight]:
        return [
            Weight(-0.1 * text.count("!") - text.count("a"), (), text == "!") for _, text in pairs
        ]


def question(kind: Kind, *options: str) -> Question:
    """The first option is right."""
    return Question(kind, "Say", options, 0)


def test_the_likelier_option_wins_and_an_ending_is_weighed_per_byte() -> None:
    long_and_likely, short = "aa!!!!!!!!!!", "aa"  # -3.0 over 12 bytes, -2.0 over 2
    ending = [question(Kind.ENDING, long_and_likely, short)]
    assert score_questions(Spelled(), ending, "ending").accuracy == 1
    assert score_questions(Spelled(), ending, "ending", per_byte=False).accuracy == 0
    order = [question(Kind.ORDER, long_and_likely, short)]
    assert score_questions(Spelled(), order, "order").accuracy == 0


def test_chance_and_greedy_are_shares_over_questions_of_any_size() -> None:
    questions = [
        question(Kind.ORDER, "!", "a"),
        question(Kind.ORDER, "a", "!", "aa", "aaa"),
    ]
    score = score_questions(Spelled(), questions, "order")
    assert (score.count, score.accuracy, score.greedy) == (2, 0.5, 0.5)
    assert score.chance == pytest.approx(0.375)
    assert "| order | 2 | 50.0% |" in table([score])
