"""What a task found, and what became of it by another way of computing."""

from __future__ import annotations

import math

import pytest

from shardline.evaluation import Losses, Shares


def shares(right: str, answers: str | None = None) -> Shares:
    """`+` is right; an answer is a letter."""
    return Shares(tuple(answers or right), tuple(one == "+" for one in right))


def test_a_share_has_score_interval_and_number() -> None:
    found = shares("++++-")
    assert (found.n, found.score, found.percent) == (5, 0.8, True)
    low, high = found.interval()
    assert low < 0.8 < high


def test_equal_answers_agree_whether_right_or_not() -> None:
    assert shares("+-+-", "abcd").agreement(shares("+-+-", "abcx")) == 0.75


def test_answers_that_only_get_lost_are_significantly_worse_from_six_on() -> None:
    for lost, worse in ((5, False), (6, True)):
        change = shares("-" * lost + "+" * 20).change(shares("+" * (lost + 20)))
        assert change.by == pytest.approx(-lost / (lost + 20))
        assert change.low < change.by < change.high
        assert change.worse is worse
        assert (change.p < 0.05) is worse


def test_answers_that_are_won_are_never_worse() -> None:
    change = shares("+" * 20).change(shares("-" * 20))
    assert (change.by, change.worse) == (1.0, False)
    assert change.p < 0.05


def test_as_many_won_as_lost_is_no_change() -> None:
    change = shares("+-").change(shares("-+"))
    assert (change.by, change.p, change.worse) == (0.0, 1.0, False)


def losses(nats: float, texts: int = 50) -> Losses:
    """Texts of four tokens, of unequal surprise around so many nats a token."""
    surprise = tuple(4 * (nats + 0.1 * math.sin(7 * at)) for at in range(texts))
    return Losses(surprise, ((1, 2, 3, 4),) * texts)


def test_a_perplexity_is_of_all_tokens() -> None:
    found = Losses((1.0, 5.0), ((7,), (7, 7)))
    assert (found.n, found.score) == (3, pytest.approx(math.exp(2.0)))


def test_a_little_more_surprise_everywhere_is_significant_though_intervals_overlap() -> None:
    ours, exact = losses(1.01), losses(1.0)
    assert ours.interval()[0] < exact.score < ours.interval()[1]
    change = ours.change(exact)
    assert change.worse
    assert change.by == pytest.approx(math.expm1(0.01))
    assert not exact.change(ours).worse


def test_the_same_surprise_is_no_change() -> None:
    change = losses(1.0).change(losses(1.0))
    assert (change.by, change.low, change.high, change.p) == (0.0, 0.0, 0.0, 1.0)


def test_agreement_of_texts_is_of_the_likeliest_tokens() -> None:
    ours = Losses((1.0, 1.0), ((1, 2), (3, 4)))
    assert ours.agreement(Losses((1.0, 1.0), ((1, 2), (3, 5)))) == 0.75


def test_nothing_to_judge_is_nonsense() -> None:
    with pytest.raises(ValueError, match="0 answers"):
        Shares((), ())
    with pytest.raises(ValueError, match="1 losses of 0 texts"):
        Losses((1.0,), ())
