"""What a task found, of each single question: right answers, or how surprising a text was."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from shardline.evaluation.intervals import bonett_price, bootstrap, mcnemar, wilson

if TYPE_CHECKING:
    from collections.abc import Hashable

    from numpy.typing import NDArray

__all__ = ["Change", "Losses", "Measured", "Shares", "alike"]

LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Change:
    """Against the run that others are compared with: of a share in shares, of a perplexity
    relative to it; with a 95% interval, and the chance of as much by luck.
    """

    by: float
    low: float
    high: float
    p: float
    worse: bool
    """Significantly: for the bad, with p below 5%."""


@runtime_checkable
class Measured(Protocol):
    """One task by one model. Two of the same task may be compared."""

    @property
    def n(self) -> int:
        """How many single answers there are."""
        ...

    @property
    def score(self) -> float:
        """Of all of them."""
        ...

    @property
    def percent(self) -> bool:
        """Whether the score is a share of right answers; else it is a perplexity."""
        ...

    def interval(self) -> tuple[float, float]:
        """At 95%."""
        ...

    def agreement(self, exact: Any) -> float:  # noqa: ANN401  (another of its own kind)
        """The share of single answers that are the same."""
        ...

    def change(self, exact: Any) -> Change:  # noqa: ANN401
        """From the other run to this one."""
        ...


def alike(ours: tuple[Hashable, ...], theirs: tuple[Hashable, ...]) -> float:
    """The share of equal answers."""
    return sum(mine == other for mine, other in zip(ours, theirs, strict=True)) / len(ours)


@dataclass(frozen=True, slots=True)
class Shares:
    """Answers, and which of them are right."""

    answers: tuple[str, ...]
    right: tuple[bool, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.answers) == len(self.right):
            raise ValueError(f"{len(self.answers)} answers, of which {len(self.right)} are judged")

    @property
    def n(self) -> int:
        """How many questions."""
        return len(self.right)

    @property
    def score(self) -> float:
        """The share of right answers."""
        return sum(self.right) / self.n

    @property
    def percent(self) -> bool:
        """It is a share."""
        return True

    def interval(self) -> tuple[float, float]:
        """Wilson's."""
        return wilson(sum(self.right), self.n)

    def agreement(self, exact: Shares) -> float:
        """The share of questions that are answered alike, rightly or not."""
        return alike(self.answers, exact.answers)

    def change(self, exact: Shares) -> Change:
        """In shares: Bonett and Price's interval, McNemar's exact test."""
        pairs = list(zip(self.right, exact.right, strict=True))
        gained = sum(ours and not theirs for ours, theirs in pairs)
        lost = sum(theirs and not ours for ours, theirs in pairs)
        p = mcnemar(gained, lost)
        low, high = bonett_price(gained, lost, self.n)
        return Change((gained - lost) / self.n, low, high, p, worse=lost > gained and p < LEVEL)


@dataclass(frozen=True, slots=True)
class Losses:
    """How surprising texts were: of each its nats, and the token held likeliest at each place."""

    nats: tuple[float, ...]
    likeliest: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.nats) == len(self.likeliest):
            raise ValueError(f"{len(self.nats)} losses of {len(self.likeliest)} texts")

    @property
    def n(self) -> int:
        """How many tokens."""
        return sum(map(len, self.likeliest))

    @property
    def score(self) -> float:
        """Perplexity: e to the nats of a token."""
        return math.exp(sum(self.nats) / self.n)

    @property
    def percent(self) -> bool:
        """It is no share."""
        return False

    def interval(self) -> tuple[float, float]:
        """By a bootstrap over texts."""
        return _middle(np.exp(bootstrap(self._rate, len(self.nats))))

    def agreement(self, exact: Losses) -> float:
        """The share of places where the same token is held likeliest."""
        return alike(self._answers, exact._answers)

    def change(self, exact: Losses) -> Change:
        """Relative; interval and two-sided test by a paired bootstrap over texts."""
        drawn = bootstrap(lambda at: self._rate(at) - exact._rate(at), len(self.nats))
        fewer = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
        p = min(1.0, 2 * (fewer + 1) / (len(drawn) + 1))
        by = self.score / exact.score - 1
        low, high = _middle(np.expm1(drawn))
        return Change(by, low, high, p, worse=by > 0 and p < LEVEL)

    @property
    def _answers(self) -> tuple[int, ...]:
        return tuple(token for text in self.likeliest for token in text)

    def _rate(self, at: NDArray[np.intp]) -> NDArray[np.float64]:
        """Nats a token of these texts; (draws, texts) to (draws)."""
        sizes = np.array([len(text) for text in self.likeliest])
        return np.array(self.nats)[at].sum(-1) / sizes[at].sum(-1)


def _middle(drawn: NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95% of sorted draws."""
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(low), float(high)
