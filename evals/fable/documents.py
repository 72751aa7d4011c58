"""What the model reads in training: stories and questions as documents, and the draws for both.

A document is a list of pieces; the pieces that answer something are marked, so that training can
weigh them more than the prose around them.
"""

# ruff: noqa: S311 (nothing here is secret)
from __future__ import annotations

import random
from typing import TYPE_CHECKING

from evals.fable.cause import cause_draft, cause_question
from evals.fable.items import Kind, Question, Split, draw
from evals.fable.order import OrderDraft, order_draft, order_question
from evals.fable.plots import Story, ending_question, last_word_question, tell
from evals.fable.pronoun import pronoun_draft, pronoun_question
from evals.fable.tales_fable import FABLE_PLOTS
from evals.fable.tales_home import HOME_PLOTS
from evals.fable.tales_road import ROAD_PLOTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["PLOTS", "Piece", "documents", "make_question", "make_questions", "make_story"]

PLOTS = (*HOME_PLOTS, *ROAD_PLOTS, *FABLE_PLOTS)
Piece = tuple[str, bool]  # text, and whether it answers something
ORDER_SIZE_WEIGHTS = {3: 30, 4: 25, 5: 20, 6: 15, 7: 10}


def make_story(seed: int, split: Split = Split.HELD_OUT) -> Story:
    """A story; the same one for the same seed and split."""
    return draw(told, random.Random(f"story/{split}/{seed}"), split)


def told(rng: random.Random) -> Story:
    """Any story."""
    return tell(PLOTS, rng)


def make_question(kind: Kind, seed: int, split: Split = Split.HELD_OUT) -> Question:
    """A question of `kind`; the same one for the same seed and split."""
    rng = random.Random(f"{kind}/{split}/{seed}")
    match kind:
        case Kind.LAST_WORD:
            return last_word_question(draw(told, rng, split), rng)
        case Kind.ENDING:
            return ending_question(draw(told, rng, split), rng)
        case Kind.PRONOUN:
            return pronoun_question(draw(pronoun_draft, rng, split), rng)
        case Kind.CAUSE:
            return cause_question(draw(cause_draft, rng, split), rng)
        case Kind.ORDER:
            return order_question(draw(order_draft, rng, split), rng)


def make_questions(
    kind: Kind, count: int, split: Split = Split.HELD_OUT, first_seed: int = 0
) -> tuple[Question, ...]:
    """`count` questions of `kind`, of the seeds from `first_seed` on."""
    seeds = range(first_seed, first_seed + count)
    return tuple(make_question(kind, seed, split) for seed in seeds)


def story_pieces(rng: random.Random) -> list[Piece]:
    """A story, often asked for, its last word marked; sometimes a question about it."""
    story = draw(told, rng, Split.TRAIN)
    head, word = story.text.rstrip(".").rsplit(" ", 1)
    asked = f"Tell me a story about {story.title}.\n" if rng.random() < 1 / 2 else ""
    pieces = [(asked + head, False), (f" {word}", True), (".", False)]
    if rng.random() < 1 / 4:
        pieces += [(f"\nQuestion: {story.asked}\nAnswer:", False), (f" {word}", True), (".", False)]
    return pieces


def question_pieces(question: Question) -> list[Piece]:
    """A prompt and its right answer."""
    return [(question.prompt, False), (f" {question.answer}", True), (".", False)]


def pronoun_pieces(rng: random.Random) -> list[Piece]:
    """One pronoun question."""
    return question_pieces(pronoun_question(draw(pronoun_draft, rng, Split.TRAIN), rng))


def cause_pieces(rng: random.Random) -> list[Piece]:
    """One to three questions about the same events."""
    draft = draw(cause_draft, rng, Split.TRAIN)
    pieces = question_pieces(cause_question(draft, rng))
    for _ in range(rng.randrange(3)):
        pieces += follow_up(draft.passage, cause_question(draft, rng))
    return pieces


def order_pieces(rng: random.Random) -> list[Piece]:
    """Up to four questions about the same clues, and sometimes the whole order."""
    sizes = list(ORDER_SIZE_WEIGHTS)
    size = rng.choices(sizes, list(ORDER_SIZE_WEIGHTS.values()))[0]
    draft = draw(lambda luck: order_draft(luck, size), rng, Split.TRAIN)
    places = rng.sample(range(size), min(size, 4))
    if rng.random() < 1 / 2:
        first, *_ = places
        return [
            *question_pieces(order_question(draft, rng, first)),
            *whole_order(draft),
        ]
    pieces = [(draft.passage, False)]
    for place in places:
        pieces += follow_up(draft.passage, order_question(draft, rng, place))
    return pieces


def whole_order(draft: OrderDraft) -> list[Piece]:
    """All objects from the low end to the high end."""
    names = [draft.names[item] for item in draft.order]
    asked = "\nQuestion: What is the whole order?\nAnswer:"
    answer = " " + ", ".join(names)
    return [(asked, False), (answer, True), (".", False)]


def follow_up(passage: str, question: Question) -> list[Piece]:
    """A further question about a passage that has been told already."""
    asked = question.prompt.removeprefix(passage)
    return [(asked, False), (f" {question.answer}", True), (".", False)]


MIX: tuple[tuple[Callable[[random.Random], list[Piece]], float], ...] = (
    (story_pieces, 0.35),
    (pronoun_pieces, 0.15),
    (cause_pieces, 0.20),
    (order_pieces, 0.30),
)


def documents(seed: int) -> Iterator[list[Piece]]:
    """Training documents without end, a function of the seed."""
    rng = random.Random(f"documents/{seed}")
    makers, weights = zip(*MIX, strict=True)
    while True:
        yield rng.choices(makers, weights)[0](rng)
