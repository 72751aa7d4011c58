"""What the model reads before its mix: small worlds in which looking something up is all there is.

Where nothing else is to be learned, a shallow model learns to find the word after a repeated word
within a minute; with layers added that add nothing at first, it learns each longer form in a few
minutes more. In a mix, or at full depth from the start, none of these came in two hours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from evals.fable.documents import Source
from evals.fable.order import (
    ORDINALS,
    THEMES,
    Theme,
    drawn_draft,
    order_question,
    place_words,
    placed_draft,
)
from evals.fable.world import BOYS, GIRLS, NOUNS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from evals.fable.documents import Mix, Piece

__all__ = ["LESSONS", "Lesson", "pair_pieces", "place_list_pieces", "placed_pieces"]

ROUNDS = 3
FILLERS = ("", " is", " one is")
ENDS = (("oldest", "youngest"), ("dearest", "cheapest"), ("biggest", "smallest"))
CHILDREN = (next(theme for theme in THEMES if theme.upwards.endswith("oldest")),)
SIZES = range(3, 8)


def pair_pieces(
    rng: random.Random, fillers: Sequence[str] = FILLERS, key_words: int = 1
) -> list[Piece]:
    """Keys and values without sense, three times over in other orders: ` third is doll.`"""
    count, filler, ends = rng.randrange(3, 8), rng.choice(fillers), rng.choice(ENDS)
    words = (
        (*GIRLS, *BOYS) if rng.random() < 1 / 2 else [w for all_ in NOUNS.values() for w in all_]
    )
    known = [f"{nth} {end}" for nth in ORDINALS for end in ends] if key_words > 1 else ORDINALS
    pairs = list(zip(rng.sample(known, count), rng.sample(words, count), strict=True))
    pieces: list[Piece] = []
    for turn in range(ROUNDS):
        for key, value in rng.sample(pairs, count):
            pieces += [(f" {key}{filler}", False), (f" {value}", turn > 0)]
            if filler:
                pieces.append((".", False))
    return pieces


def place_list_pieces(
    rng: random.Random, themes: Sequence[Theme] = THEMES, turned: float = 0.0
) -> list[Piece]:
    """The places of an order, three times over in other orders: `The second oldest is Ben.`

    At first some are `turned` round: `Ben is the second oldest.`
    """
    draft = drawn_draft(rng, rng.choice(SIZES), tuple(themes))
    size = len(draft.order)
    pieces: list[Piece] = []
    for turn in range(ROUNDS):
        for place in rng.sample(range(size), size):
            asked = place_words(draft.theme, place, size, draft.from_low)
            name = draft.names[draft.order[place]]
            begun = asked[:1].upper() + asked[1:]
            if turn == 0 and rng.random() < turned:
                pieces.append((f" {name[:1].upper()}{name[1:]} is {asked}.", False))
            elif turn == 0:
                pieces.append((f" {begun} is {name}.", False))
            else:
                pieces += [(f" {begun} is", False), (f" {name}", True), (".", False)]
    return pieces


def placed_pieces(rng: random.Random) -> list[Piece]:
    """A puzzle that tells every place, and asks for all."""
    draft = placed_draft(rng, rng.choice(SIZES))
    pieces: list[Piece] = [(draft.passage, False)]
    for place in rng.sample(range(len(draft.order)), len(draft.order)):
        question = order_question(draft, rng, place)
        asked = question.prompt.removeprefix(draft.passage)
        pieces += [(asked, False), (f" {question.answer}", True), (".", False)]
    return pieces


@dataclass(frozen=True, slots=True)
class Lesson:
    """A mix read for so many tokens by a model of so many layers, which learns its answers only."""

    mix: Mix
    tokens: int
    layers: int


def lesson(tokens: int, layers: int, *makers: Callable[[random.Random], list[Piece]]) -> Lesson:
    """Equal shares of these documents."""
    return Lesson(tuple(Source(make, 1.0, prose=False) for make in makers), tokens, layers)


ONE_WORD = partial(pair_pieces, fillers=FILLERS[:1])
NEAR = partial(pair_pieces, fillers=FILLERS[:2])
TWO_WORDS = partial(pair_pieces, key_words=2)
AGES = partial(place_list_pieces, themes=CHILDREN)
TURNED = partial(place_list_pieces, turned=0.5)

LESSONS = (
    lesson(900_000, 2, ONE_WORD),
    lesson(450_000, 4, NEAR),
    lesson(650_000, 6, TWO_WORDS, pair_pieces),
    lesson(750_000, 6, AGES, TWO_WORDS),
    lesson(650_000, 6, place_list_pieces, TURNED, AGES),
    lesson(550_000, 8, place_list_pieces, TURNED),
    lesson(550_000, 8, placed_pieces, TURNED),
    lesson(850_000, 8, placed_pieces, TURNED),
)
"""What was not learned: larger steps, a new form of words at a depth that knew others, and two new
things in one lesson. To compare (`Ben is older than Ann.`) was learned within a minute by models
that looked nothing up, and each of the two drove out the other."""
