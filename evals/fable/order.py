"""Three to seven objects, ordered from clues: a miniature of logical deduction.

Clues are kept until exactly one of the n! orders fits them all, so each place has one answer.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from evals.fable.items import Kind, Question, shuffled
from evals.fable.world import BOYS, GIRLS, ORDERABLE

if TYPE_CHECKING:
    import random

    from numpy.typing import NDArray

__all__ = [
    "ORDINALS",
    "THEMES",
    "Clue",
    "OrderDraft",
    "Theme",
    "drawn_draft",
    "fitting_orders",
    "listed_draft",
    "order_draft",
    "order_question",
    "place_words",
    "placed_draft",
    "scene_text",
    "theme_names",
]

SIZES = (3, 4, 5, 6, 7)
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")


@dataclass(frozen=True, slots=True)
class Theme:
    """Words for one kind of order: `low` end first; places are counted from either end."""

    scene: str
    upwards: str
    before: str
    after: str
    beside: str
    low: str
    high: str
    nth_low: str
    nth_high: str
    family: str


THEMES = (
    Theme(
        "On a shelf {n} things stand in a row: {items}.", "from left to right",
        "to the left of", "to the right of", "directly to the left of",
        "the leftmost", "the rightmost", "{k} from the left", "{k} from the right", "things",
    ),
    Theme(
        "On a branch {n} birds sit in a row: {items}.", "from left to right",
        "to the left of", "to the right of", "directly to the left of",
        "the leftmost", "the rightmost", "{k} from the left", "{k} from the right", "birds",
    ),
    Theme(
        "At the market there are {n} fruits with different prices: {items}.",
        "from the cheapest to the dearest",
        "cheaper than", "dearer than", "one place cheaper than",
        "the cheapest", "the dearest", "the {k} cheapest", "the {k} dearest", "fruits",
    ),
    Theme(
        "On the farm there are {n} animals of different size: {items}.",
        "from the smallest to the biggest",
        "smaller than", "bigger than", "one place smaller than",
        "the smallest", "the biggest", "the {k} smallest", "the {k} biggest", "animals",
    ),
    Theme(
        "In a family there are {n} children of different age: {items}.",
        "from the youngest to the oldest",
        "younger than", "older than", "one place younger than",
        "the youngest", "the oldest", "the {k} youngest", "the {k} oldest", "children",
    ),
    Theme(
        "In a row {n} children wait: {items}.", "from front to back",
        "in front of", "behind", "directly in front of",
        "at the front", "at the back", "{k} from the front", "{k} from the back", "children",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Clue:
    """`before`: first comes before second; `beside`: directly so; `at`: second is a place."""

    relation: str
    first: int
    second: int


@dataclass(frozen=True, slots=True)
class OrderDraft:
    """A puzzle: its text, its clues, and the one order that fits (names from low to high)."""

    passage: str
    theme: Theme
    clues: tuple[Clue, ...]
    names: tuple[str, ...]
    order: tuple[int, ...]
    from_low: bool = True
    """From which end places between the ends are counted, in clues and questions alike."""


@cache
def places(size: int) -> NDArray[np.int8]:
    """All orders of `size` objects, (size!, size): the place of each object."""
    return np.array(list(itertools.permutations(range(size))), dtype=np.int8)


def fits(clue: Clue, table: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Which rows of a table of places satisfy the clue."""
    first = table[:, clue.first]
    if clue.relation == "at":
        return first == clue.second
    second = table[:, clue.second]
    return first < second if clue.relation == "before" else first + 1 == second


def fitting_orders(clues: tuple[Clue, ...], size: int) -> list[tuple[int, ...]]:
    """Every order (object by place) that satisfies all clues, by trying all of them."""
    table = places(size)
    for clue in clues:
        table = table[fits(clue, table)]
    return [tuple(int(index) for index in np.argsort(row)) for row in table]


def draw_clues(order: list[int], rng: random.Random) -> tuple[Clue, ...]:
    """Clues that each rule out at least one order still open, until one order is left."""
    size = len(order)
    place = {item: index for index, item in enumerate(order)}
    pairs = list(itertools.combinations(order, 2))
    pool = [Clue("before", low, high) for low, high in pairs]
    pool += [Clue("beside", low, high) for low, high in itertools.pairwise(order)] * 2
    pool += [Clue("at", item, place[item]) for item in rng.sample(order, size - 1)] * 2
    rng.shuffle(pool)
    table, kept = places(size), list[Clue]()
    for clue in pool:
        mask = fits(clue, table)
        if mask.all():
            continue
        table = table[mask]
        kept.append(clue)
        if len(table) == 1:
            break
    rng.shuffle(kept)
    return tuple(kept)


def place_words(theme: Theme, place: int, size: int, from_low: bool) -> str:  # noqa: FBT001
    """`the second oldest`, `fourth from the left`; the ends have words of their own."""
    if place in {0, size - 1}:
        return theme.low if place == 0 else theme.high
    steps = place if from_low else size - 1 - place
    return (theme.nth_low if from_low else theme.nth_high).format(k=ORDINALS[steps])


def from_an_end(rng: random.Random) -> bool:
    """Whether places are counted from the low end."""
    return rng.random() < 1 / 2


def clue_text(draft: OrderDraft, clue: Clue, rng: random.Random) -> str:
    """A clue as a sentence; comparisons are told from either side."""
    theme, names = draft.theme, draft.names
    first = names[clue.first]
    if clue.relation == "at":
        place = place_words(theme, clue.second, len(names), draft.from_low)
        text = f"{first} is {place}." if rng.random() < 1 / 2 else f"{place} is {first}."
    elif clue.relation == "beside":
        text = f"{first} is {theme.beside} {names[clue.second]}."
    elif rng.random() < 1 / 2:
        text = f"{first} is {theme.before} {names[clue.second]}."
    else:
        text = f"{names[clue.second]} is {theme.after} {first}."
    return text[:1].upper() + text[1:]


def theme_names(theme: Theme, size: int, rng: random.Random) -> tuple[str, ...]:
    """`size` distinct objects of a theme, as its sentences call them."""
    if theme.family == "children":
        return tuple(rng.sample((*GIRLS, *BOYS), size))
    return tuple(f"the {word}" for word in rng.sample(ORDERABLE[theme.family], size))


def scene_text(theme: Theme, names: tuple[str, ...]) -> str:
    """What there is to order, in an order that means nothing."""
    count = ("three", "four", "five", "six", "seven")[len(names) - SIZES[0]]
    return theme.scene.format(n=count, items=", ".join(names[:-1]) + f" and {names[-1]}")


def listed_draft(rng: random.Random, size: int) -> OrderDraft:
    """A puzzle that tells the order outright: only the counting of places is left."""
    draft = drawn_draft(rng, size)
    names = ", ".join(draft.names[item] for item in draft.order)
    told = f"The order {draft.theme.upwards} is {names}."
    return replace(draft, passage=f"{draft.passage} {told}")


def placed_draft(rng: random.Random, size: int) -> OrderDraft:
    """A puzzle that tells the place of each object, sometimes between other clues."""
    draft = drawn_draft(rng, size)
    clues = [Clue("at", item, place) for place, item in enumerate(draft.order)]
    pairs = list(itertools.combinations(draft.order, 2))
    if rng.random() < 1 / 2:
        clues += [Clue("before", *pair) for pair in rng.sample(pairs, rng.randrange(1, 4))]
    rng.shuffle(clues)
    return with_clues(draft, tuple(clues), rng)


def order_draft(rng: random.Random, size: int | None = None) -> OrderDraft:
    """A puzzle of three to seven objects (or of `size`)."""
    draft = drawn_draft(rng, size or rng.choice(SIZES))
    return with_clues(draft, draw_clues(list(draft.order), rng), rng)


def drawn_draft(rng: random.Random, size: int, themes: tuple[Theme, ...] = THEMES) -> OrderDraft:
    """An order and its scene; nothing of it is told yet."""
    theme = rng.choice(themes)
    names = theme_names(theme, size, rng)
    order = tuple(rng.sample(range(size), size))
    return OrderDraft(scene_text(theme, names), theme, (), names, order, from_an_end(rng))


def with_clues(draft: OrderDraft, clues: tuple[Clue, ...], rng: random.Random) -> OrderDraft:
    """The same order, told by these clues."""
    told = " ".join((draft.passage, *(clue_text(draft, clue, rng) for clue in clues)))
    return replace(draft, passage=told, clues=clues)


def order_question(draft: OrderDraft, rng: random.Random, place: int | None = None) -> Question:
    """Who is at any place (or at `place`), told or inferred; all are options."""
    size = len(draft.order)
    if place is None:
        place = rng.randrange(size)
    asked = place_words(draft.theme, place, size, draft.from_low)
    begun = asked[:1].upper() + asked[1:]
    prompt = f"{draft.passage}\nQuestion: Which one is {asked}?\nAnswer: {begun} is"
    answer = draft.names[draft.order[place]]
    wrong = tuple(name for name in draft.names if name != answer)
    return shuffled(Kind.ORDER, prompt, answer, wrong, rng)
