"""What the model reads in training: stories and questions as documents, and the draws for both.

A document is a list of pieces; the pieces that answer something are marked, so that training can
weigh them more than the prose around them.
"""

# ruff: noqa: S311 (nothing here is secret)
from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evals.fable.cause import cause_draft, cause_question
from evals.fable.items import Kind, Question, Split, draw
from evals.fable.order import OrderDraft, listed_draft, order_draft, order_question, placed_draft
from evals.fable.plots import Story, ending_question, last_word_question, tell
from evals.fable.pronoun import pronoun_draft, pronoun_question
from evals.fable.tales_fable import FABLE_PLOTS
from evals.fable.tales_home import HOME_PLOTS
from evals.fable.tales_road import ROAD_PLOTS
from evals.fable.world import BOYS, GIRLS, NOUNS, people

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "MIX",
    "PLOTS",
    "WORDS",
    "Mix",
    "Piece",
    "Source",
    "documents",
    "make_question",
    "make_questions",
    "make_story",
    "place_pieces",
    "whole_order",
]

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
    """Up to four questions about the same clues; the whole order before them, after, or not."""
    sizes = list(ORDER_SIZE_WEIGHTS)
    size = rng.choices(sizes, list(ORDER_SIZE_WEIGHTS.values()))[0]
    draft = draw(lambda luck: order_draft(luck, size), rng, Split.TRAIN)
    questions = place_pieces(draft, rng)
    match rng.randrange(3):
        case 0:
            pieces = [*whole_order(draft), *questions]
        case 1:
            pieces = [*questions, *whole_order(draft)]
        case _:
            pieces = questions
    return [(draft.passage, False), *pieces]


def listed_pieces(rng: random.Random) -> list[Piece]:
    """An order that is told outright, as a list or place by place, and questions about it."""
    make = rng.choice((listed_draft, placed_draft, placed_draft))
    draft = make(rng, rng.randrange(3, 8))
    return [(draft.passage, False), *place_pieces(draft, rng, len(draft.order))]


def place_pieces(draft: OrderDraft, rng: random.Random, most: int = 4) -> list[Piece]:
    """One to `most` questions about places of one order."""
    size = len(draft.order)
    pieces: list[Piece] = []
    for place in rng.sample(range(size), rng.randrange(1, min(size, most) + 1)):
        pieces += follow_up(draft.passage, order_question(draft, rng, place))
    return pieces


def whole_order(draft: OrderDraft) -> list[Piece]:
    """All objects from the low end to the high end."""
    names = [draft.names[item] for item in draft.order]
    asked = f"\nQuestion: What is the order {draft.theme.upwards}?\nAnswer:"
    return [(asked, False), (" " + ", ".join(names), True), (".", False)]


def recall_pieces(rng: random.Random) -> list[Piece]:
    """Who has what, plainly told and asked: no test asks this, but every test needs it."""
    owners = people(rng, rng.randrange(2, 8))
    kind = rng.choice(("thing", "animal", "food", "tool"))
    owned = rng.sample(NOUNS[kind], min(len(owners), len(NOUNS[kind])))
    pairs = list(zip(owners, owned, strict=False))
    pieces: list[Piece] = [(" ".join(f"{owner} has the {word}." for owner, word in pairs), False)]
    for owner, word in rng.sample(pairs, rng.randrange(2, len(pairs) + 1)):
        if rng.random() < 1 / 2:
            asked, answer = f"Who has the {word}?", f" {owner}"
        else:
            asked, answer = f"What does {owner} have?", f" the {word}"
        pieces += [(f"\nQuestion: {asked}\nAnswer:", False), (answer, True), (".", False)]
    return pieces


def follow_up(passage: str, question: Question) -> list[Piece]:
    """A further question about a passage that has been told already."""
    asked = question.prompt.removeprefix(passage)
    return [(asked, False), (f" {question.answer}", True), (".", False)]


def echo_pieces(rng: random.Random) -> list[Piece]:
    """Words without sense, said twice: the plainest text from which copying can be learned."""
    known = [*GIRLS, *BOYS, *(word for words in NOUNS.values() for word in words)]
    said = " " + " ".join(rng.sample(known, rng.randrange(4, 17)))
    return [(f"Say after me:{said}.\nI say:", False), (said, True), (".", False)]


@dataclass(frozen=True, slots=True)
class Source:
    """One kind of document, its share of a mix, and whether its prose is learned too.

    Clues are drawn at random: to foretell them is noise, and to answer them is all there is.
    """

    make: Callable[[random.Random], list[Piece]]
    share: float
    prose: bool = True


Mix = tuple[Source, ...]
MIX: Mix = (
    Source(story_pieces, 0.30),
    Source(pronoun_pieces, 0.11),
    Source(cause_pieces, 0.11),
    Source(order_pieces, 0.24, prose=False),
    Source(listed_pieces, 0.16, prose=False),
    Source(recall_pieces, 0.06, prose=False),
    Source(echo_pieces, 0.02, prose=False),
)
WORDS: Mix = tuple(
    Source(source.make, share)
    for source, share in zip(MIX, (0.28, 0.12, 0.12, 0.22, 0.08, 0.13, 0.05), strict=True)
)
"""What the tokenizer is trained on: its own shares, so that it stays when `MIX` changes."""


def documents(seed: int, mix: Mix = MIX) -> Iterator[tuple[list[Piece], bool]]:
    """Training documents without end, a function of the seed; and whether to learn their prose."""
    rng = random.Random(f"documents/{seed}")
    shares = [source.share for source in mix]
    while True:
        source = rng.choices(mix, shares)[0]
        yield source.make(rng), source.prose
