"""What the model reads before its mix: small worlds in which looking something up is all there is.

Where nothing else is to be learned, a shallow model learns to find the word after a repeated word
within a minute; with layers added that add nothing at first, it learns each longer form in a few
minutes more. In a mix, or at full depth from the start, none of these came in two hours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

from evals.fable.documents import Source, place_pieces, whole_order
from evals.fable.items import Split, draw
from evals.fable.order import (
    ORDINALS,
    THEMES,
    OrderDraft,
    Theme,
    order_draft,
    order_question,
    place_words,
    scene_text,
    theme_names,
)
from evals.fable.world import BOYS, GIRLS, NOUNS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from evals.fable.documents import Mix, Piece

__all__ = [
    "LESSONS",
    "Lesson",
    "compared_pieces",
    "pair_pieces",
    "place_list_pieces",
    "placed_pieces",
]

ROUNDS = 3
FILLERS = ("", " is", " one is")
ENDS = (("oldest", "youngest"), ("dearest", "cheapest"), ("biggest", "smallest"))
CHILDREN = (next(theme for theme in THEMES if theme.upwards.endswith("oldest")),)


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


def compared_pieces(
    rng: random.Random,
    sizes: Sequence[int] = (3,),
    *,
    neighbours: bool = False,
    one_way: bool = False,
) -> list[Piece]:
    """Three small orders told by comparisons, of all pairs or of neighbours; who is at each end.

    `one_way` tells all from the low end: then the first named is always the lower one.
    """
    pieces: list[Piece] = []
    for _ in range(ROUNDS):
        theme, size = rng.choice(THEMES), rng.choice(sizes)
        names = theme_names(theme, size, rng)  # from low to high
        pairs = list(pairwise(names) if neighbours else combinations(names, 2))
        for low, high in rng.sample(pairs, len(pairs)):
            if one_way or rng.random() < 1 / 2:
                told = f"{low} is {theme.before} {high}."
            else:
                told = f"{high} is {theme.after} {low}."
            pieces.append((f" {told[:1].upper()}{told[1:]}", False))
        for asked, name in rng.sample([(theme.low, names[0]), (theme.high, names[-1])], 2):
            begun = asked[:1].upper() + asked[1:]
            pieces += [(f" {begun} is", False), (f" {name}", True), (".", False)]
    return pieces


def drawn_order(rng: random.Random, themes: Sequence[Theme], sizes: Sequence[int]) -> OrderDraft:
    """An order of which nothing is told yet."""
    theme, size = rng.choice(themes), rng.choice(sizes)
    names = theme_names(theme, size, rng)
    return OrderDraft("", theme, (), names, tuple(rng.sample(range(size), size)))


def told_place(asked: str, name: str, rng: random.Random, turned: float) -> str:
    """`The second oldest is Ben.`, or turned round."""
    text = f"{name} is {asked}." if rng.random() < turned else f"{asked} is {name}."
    return text[:1].upper() + text[1:]


def place_list_pieces(
    rng: random.Random, themes: Sequence[Theme] = THEMES, turned: float = 0.0
) -> list[Piece]:
    """The places of an order, three times over in other orders, counted from the same end."""
    draft = drawn_order(rng, themes, range(3, 8))
    size = len(draft.order)
    places = [place_words(draft.theme, place, size, rng) for place in range(size)]
    pieces: list[Piece] = []
    for turn in range(ROUNDS):
        for place in rng.sample(range(size), size):
            asked, name = places[place], draft.names[draft.order[place]]
            if turn == 0:
                pieces.append((f" {told_place(asked, name, rng, turned)}", False))
            else:
                begun = asked[:1].upper() + asked[1:]
                pieces += [(f" {begun} is", False), (f" {name}", True), (".", False)]
    return pieces


def placed_pieces(
    rng: random.Random,
    sizes: Sequence[int] = range(3, 8),
    turned: float = 0.5,
    other_end: bool = False,  # noqa: FBT001, FBT002
) -> list[Piece]:
    """A puzzle that tells every place, and asks for all; from the end that was told, or any."""
    draft = drawn_order(rng, THEMES, sizes)
    size = len(draft.order)
    places = [place_words(draft.theme, place, size, rng) for place in range(size)]
    told = " ".join(
        told_place(places[place], draft.names[draft.order[place]], rng, turned)
        for place in rng.sample(range(size), size)
    )
    pieces: list[Piece] = [(f"{scene_text(draft.theme, draft.names)} {told}", False)]
    for place in rng.sample(range(size), size):
        asked = place_words(draft.theme, place, size, rng) if other_end else places[place]
        prompt = order_question(draft, rng, place, asked).prompt
        pieces += [(prompt, False), (f" {draft.names[draft.order[place]]}", True), (".", False)]
    return pieces


def clues_pieces(rng: random.Random, sizes: Sequence[int] = range(3, 8)) -> list[Piece]:
    """A puzzle as it is asked in earnest, its whole order sometimes, and all of its places."""
    size = rng.choice(sizes)
    draft = draw(lambda luck: order_draft(luck, size), rng, Split.TRAIN)
    pieces: list[Piece] = [(draft.passage, False)]
    if rng.random() < 1 / 2:
        pieces += whole_order(draft)
    return pieces + place_pieces(draft, rng, size)


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
TWO_ONE_WAY = partial(compared_pieces, sizes=(2,), one_way=True)
TWO = partial(compared_pieces, sizes=(2,))
CHAIN_OF_THREE = partial(compared_pieces, neighbours=True)
AGES = partial(place_list_pieces, themes=CHILDREN)
TURNED = partial(place_list_pieces, turned=0.5)
FEW_OTHER_END = partial(placed_pieces, sizes=(3, 4), other_end=True)
OTHER_END = partial(placed_pieces, other_end=True)
THREE = partial(clues_pieces, sizes=(3,))

LESSONS = (
    lesson(850_000, 2, ONE_WORD, TWO_ONE_WAY),
    lesson(850_000, 4, NEAR, TWO),
    lesson(1_200_000, 6, compared_pieces, TWO, NEAR),
    lesson(900_000, 6, CHAIN_OF_THREE, compared_pieces, NEAR),
    lesson(900_000, 8, pair_pieces, CHAIN_OF_THREE, compared_pieces),
    lesson(1_200_000, 8, TWO_WORDS, CHAIN_OF_THREE),
    lesson(900_000, 8, AGES, TWO_WORDS, CHAIN_OF_THREE),
    lesson(1_200_000, 8, place_list_pieces, TURNED, CHAIN_OF_THREE),
    lesson(900_000, 8, placed_pieces, TURNED, CHAIN_OF_THREE),
    lesson(900_000, 8, FEW_OTHER_END, placed_pieces, CHAIN_OF_THREE),
    lesson(1_200_000, 8, THREE, OTHER_END, clues_pieces),
)
"""The first four were learned in this order, within these tokens. Of the others, all but the last
two were, by a model that did not learn to compare; together they are untried. What was not learned:
larger steps, a new form of words at a depth that knew others, and two new things in one lesson."""
