"""What the generator hands out: questions with one right answer, and the split they are in.

Held-out text is kept out of training twice: the two splits seed their generators differently, and
a passage (a story's body, a puzzle's clues) belongs to the split that its own digest names, so
that the same passage can never be drawn for both.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

__all__ = ["Draft", "Kind", "Question", "Split", "draw", "shuffled", "split_of"]

HELD_OUT_ONE_IN = 16
DRAWS_MAX = 10_000


class Kind(StrEnum):
    """The five kinds of questions, each a miniature of a public benchmark."""

    LAST_WORD = "last-word"  # LAMBADA
    ENDING = "ending"  # HellaSwag
    PRONOUN = "pronoun"  # BIG-bench hard: disambiguation QA
    CAUSE = "cause"  # BIG-bench hard: causal judgement
    ORDER = "order"  # BIG-bench hard: logical deduction, three to seven objects


class Split(StrEnum):
    """Which half of the world a passage belongs to."""

    TRAIN = "train"
    HELD_OUT = "held-out"


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and its options; the continuation `" " + options[answer_index]` is the right one."""

    kind: Kind
    prompt: str
    options: tuple[str, ...]
    answer_index: int

    def __post_init__(self) -> None:
        if len(set(self.options)) != len(self.options) or len(self.options) < 2:  # noqa: PLR2004
            raise ValueError(f"options must be two or more and distinct: {self.options}")
        if not 0 <= self.answer_index < len(self.options):
            raise ValueError(f"no option {self.answer_index} among {len(self.options)}")

    @property
    def answer(self) -> str:
        """The right option."""
        return self.options[self.answer_index]

    @property
    def chance(self) -> float:
        """The share of right answers that blind guessing gets."""
        return 1 / len(self.options)


class Draft(Protocol):
    """Anything drawn at random that has a passage by which it is put into a split."""

    @property
    def passage(self) -> str:
        """The text that every prompt made of this draft starts with."""
        ...


def split_of(passage: str) -> Split:
    """The split a passage belongs to: its own digest says, so both splits can never share it."""
    digest = hashlib.blake2b(passage.encode(), digest_size=2).digest()
    held_out = int.from_bytes(digest, "big") % HELD_OUT_ONE_IN == 0
    return Split.HELD_OUT if held_out else Split.TRAIN


DraftT = TypeVar("DraftT", bound=Draft)


def draw(make: Callable[[random.Random], DraftT], rng: random.Random, split: Split) -> DraftT:
    """Draw until the passage is of `split`."""
    for _ in range(DRAWS_MAX):
        draft = make(rng)
        if split_of(draft.passage) is split:
            return draft
    raise ValueError(f"no {split} passage in {DRAWS_MAX} draws: the generator is too narrow")


def shuffled(
    kind: Kind, prompt: str, answer: str, wrong: tuple[str, ...], rng: random.Random
) -> Question:
    """A question whose options stand in random order, so that no place is favoured."""
    options = [answer, *wrong]
    rng.shuffle(options)
    return Question(kind, prompt, tuple(options), options.index(answer))
