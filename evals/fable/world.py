"""The small world of the stories: who lives in it, what lies about in it, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

__all__ = ["NOUNS", "ORDERABLE", "Noun", "Person", "cast", "people"]


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a name and a fixed set of pronouns."""

    word: str
    is_girl: bool

    def __str__(self) -> str:
        return self.word

    @property
    def she(self) -> str:
        """The subject pronoun."""
        return "she" if self.is_girl else "he"

    @property
    def cap(self) -> str:
        """The subject pronoun at the start of a sentence."""
        return "She" if self.is_girl else "He"

    @property
    def her(self) -> str:
        """The object pronoun."""
        return "her" if self.is_girl else "him"

    @property
    def his(self) -> str:
        """The possessive pronoun."""
        return "her" if self.is_girl else "his"


@dataclass(frozen=True, slots=True)
class Noun:
    """A thing, place or animal, with the colour or size it keeps through a story."""

    word: str
    look: str

    def __str__(self) -> str:
        return self.word

    @property
    def a(self) -> str:
        """With its indefinite article: `a kite`, `an owl`."""
        return f"{'an' if self.word[0] in 'aeiou' else 'a'} {self.word}"

    @property
    def full(self) -> str:
        """With its look: `red kite`."""
        return f"{self.look} {self.word}"

    @property
    def the_a(self) -> str:
        """With article and look: `a red kite`, `an old lamp`."""
        return f"{'an' if self.look[0] in 'aeiou' else 'a'} {self.look} {self.word}"


def words(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


GIRLS = words("Mia Anna Lily Rosa Emma Clara Nora Ruby Ella Sara Lucy Ivy Zoe Maya Jane Alma")
BOYS = words("Tom Ben Sam Max Leo Jack Finn Hugo Oscar Noah Paul Adam Luke Henry Felix Otto")
COLOURS = words("red blue green yellow white black brown silver")
LOOKS = (*COLOURS, *words("old new small big"))
COATS = words("black white brown gray old young small big")

NOUNS: Mapping[str, tuple[str, ...]] = {
    "thing": words(
        "kite ball book lamp key drum bell ring whistle scarf hat coin map flute cup doll spoon "
        "clock mirror brush button ribbon lantern"
    ),
    "container": words("basket drawer jar box bucket bag trunk pot sack barrel chest cupboard"),
    "place": words(
        "market river forest hill lake farm mill bridge garden school harbour meadow well castle "
        "cave beach"
    ),
    "animal": words(
        "cat dog goat duck hen rabbit donkey sheep pony owl mouse fox goose frog pig crow"
    ),
    "food": words(
        "bread cheese soup honey jam cake pie apples pears plums nuts butter carrots beans "
        "cherries pancakes"
    ),
    "plant": words("pumpkin sunflower rose cabbage melon turnip tulip onion radish lily"),
    "weather": words("sunny cloudy windy cold warm foggy rainy snowy"),
    "craft": words("baker miller farmer sailor teacher doctor tailor painter"),
    "tool": words("rope net ladder pole plank hook chain"),
    "pet": words("Biscuit Pepper Shadow Clover Bella Ginger Patch Star"),
}

ORDERABLE: Mapping[str, tuple[str, ...]] = {
    "birds": words("owl crow robin hawk raven quail falcon swan heron dove"),
    "books": words("red blue green white black gray brown purple orange yellow"),
    "fruits": words("apple pear plum melon mango peach lemon grape fig lime"),
    "things": words("kite ball book lamp drum bell clock mirror lantern flute"),
    "animals": words("cat dog goat duck hen rabbit donkey sheep pony goose"),
}


def people(rng: random.Random, count: int, *, girls: bool | None = None) -> list[Person]:
    """`count` people with distinct names; of one gender where `girls` says so."""
    pool = [Person(name, is_girl=True) for name in GIRLS if girls is not False]
    pool += [Person(name, is_girl=False) for name in BOYS if girls is not True]
    return rng.sample(pool, count)


def cast(roles: Mapping[str, str], rng: random.Random) -> dict[str, Person | Noun]:
    """Somebody or something for every role (role -> kind); no one plays two roles."""
    kinds: dict[str, list[str]] = {}
    for role, kind in roles.items():
        kinds.setdefault(kind, []).append(role)
    players: dict[str, Person | Noun] = {}
    for kind, names in kinds.items():
        if kind == "person":
            players.update(zip(names, people(rng, len(names)), strict=True))
            continue
        words = rng.sample(NOUNS[kind], len(names))
        looks = rng.sample(COATS if kind == "animal" else LOOKS, len(names))
        for name, word, look in zip(names, words, looks, strict=True):
            players[name] = Noun(word, look)
    return players
