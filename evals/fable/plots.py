"""How a plot becomes a story with one right ending, and the questions that a story answers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evals.fable.items import Kind, Question, shuffled
from evals.fable.prose import Line, choose, fill, passage
from evals.fable.world import Noun, Person, cast

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

__all__ = ["Case", "Plot", "Story", "ending_question", "last_word_question", "tell", "tell_plot"]

WRONG_OPTIONS = 3
ROLE = re.compile(r"\{(\w+)")


@dataclass(frozen=True, slots=True)
class Case:
    """One way a plot can go: its lines, and the ending that only these lines make true.

    `key` is the role named by the ending's last word, `rivals` are roles that stand in the lines
    too; exchanging a pair of `swaps` in the ending makes it false. `fits_others` says that the
    plot's other ways do not rule this ending out, so that it is never a wrong ending of theirs.
    """

    lines: tuple[Line, ...]
    ending: str
    key: str
    rivals: tuple[str, ...]
    swaps: tuple[tuple[str, str], ...]
    ask: str
    fits_others: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """A title, who plays (`"x,y:person t:thing"`), an opening, and the ways it can go."""

    title: str
    roles: str
    opening: tuple[Line, ...]
    cases: tuple[Case, ...]

    def cast_list(self) -> dict[str, str]:
        """Role -> kind of noun."""
        pairs = (part.split(":") for part in self.roles.split())
        return {role: kind for names, kind in pairs for role in names.split(",")}


@dataclass(frozen=True, slots=True)
class Story:
    """A told story: title, body, the true ending, false endings, and what the last word could be.

    `rivals` are words of the body that the last word could be mistaken for; `asked` is a plain
    question about the story, whose answer is the last word.
    """

    title: str
    passage: str
    ending: str
    wrong_endings: tuple[str, ...]
    rivals: tuple[str, ...]
    asked: str

    @property
    def text(self) -> str:
        """The whole story."""
        return f"{self.passage} {self.ending}"

    @property
    def last_word(self) -> str:
        """The word before the last full stop."""
        return self.ending.rsplit(" ", 1)[1].rstrip(".")


def tell(plots: Sequence[Plot], rng: random.Random) -> Story:
    """Tell one of `plots`, one way it can go, with a cast drawn for it."""
    return tell_plot(rng.choice(plots), plots, rng)


def tell_plot(plot: Plot, plots: Sequence[Plot], rng: random.Random) -> Story:
    """Tell `plot`; the wrong endings are an exchange, another way it can go, another plot's."""
    case = rng.choice(plot.cases)
    players = cast(plot.cast_list(), rng)
    body = passage((*plot.opening, *case.lines), players, rng)
    template = choose(case.ending, rng)
    ending = fill(template, players)
    turns = [(other, choose(other.ending, rng)) for other in plot.cases if other is not case]
    others = [fill(text, players) for other, text in turns if not other.fits_others]
    swapped = [fill(template, exchanged(players, pair)) for pair in case.swaps]
    rng.shuffle(swapped)
    foreign = [foreign_ending(plots, plot, players, body, rng) for _ in range(WRONG_OPTIONS)]
    wrong = [*swapped[:1], *others[:1], *filter(None, foreign), *swapped[1:], *others[1:]]
    wrong = [text for text in dict.fromkeys(wrong) if text != ending]
    return Story(
        title=choose(plot.title, rng).format(**players),
        passage=body,
        ending=ending,
        wrong_endings=tuple(wrong[:WRONG_OPTIONS]),
        rivals=tuple(players[role].word for role in case.rivals),
        asked=fill(choose(case.ask, rng), players),
    )


def foreign_ending(
    plots: Sequence[Plot],
    own: Plot,
    players: dict[str, Person | Noun],
    body: str,
    rng: random.Random,
) -> str | None:
    """The ending of another plot, told of this story's people.

    None where it names no thing, place or animal but those that `body` tells of: it might be true.
    """
    plot = rng.choice([other for other in plots if other is not own])
    guests = cast(plot.cast_list(), rng)
    people = [player for player in players.values() if isinstance(player, Person)]
    rng.shuffle(people)
    named = iter(people)
    for role, guest in guests.items():
        if isinstance(guest, Person):
            guests[role] = next(named, guest)
    template = choose(rng.choice(plot.cases).ending, rng)
    told = set(re.findall(r"\w+", body.lower()))
    nouns = [guests[role] for role in ROLE.findall(template) if isinstance(guests[role], Noun)]
    if all(noun.word.lower() in told for noun in nouns):
        return None
    return fill(template, guests)


def exchanged(players: dict[str, Person | Noun], pair: tuple[str, str]) -> dict[str, Person | Noun]:
    """The same cast with two roles exchanged."""
    first, second = pair
    return players | {first: players[second], second: players[first]}


def last_word_question(story: Story, rng: random.Random) -> Question:
    """The story without its last word; the options are words that the story names."""
    prompt = story.text.rsplit(" ", 1)[0]
    wrong = tuple(rng.sample(story.rivals, min(WRONG_OPTIONS, len(story.rivals))))
    return shuffled(Kind.LAST_WORD, prompt, story.last_word, wrong, rng)


def ending_question(story: Story, rng: random.Random) -> Question:
    """The story without its ending; the options are four endings, one of them true."""
    return shuffled(Kind.ENDING, story.passage, story.ending, story.wrong_endings, rng)
