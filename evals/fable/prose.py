"""A tiny language for varied prose: `[one|another]` picks, `{role.her}` names, a tuple shuffles."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Mapping

    from evals.fable.world import Noun, Person

__all__ = ["Line", "choose", "fill", "flatten", "passage"]

Line = str | tuple[str, ...]  # a tuple's sentences come in any order

CHOICE = re.compile(r"\[([^\[\]]*)\]")
ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou])")


def choose(template: str, rng: random.Random) -> str:
    """Replace every `[a|b|c]`, innermost first, by one of its parts; a part may be empty."""
    while "[" in template:
        template = CHOICE.sub(lambda match: rng.choice(match[1].split("|")), template)
    return template


def fill(template: str, players: Mapping[str, Person | Noun]) -> str:
    """Put the players into their roles: single spaces, `a` or `an`, and a capital to start with."""
    text = ARTICLE.sub(r"\1n ", " ".join(template.format(**players).split()))
    return text[:1].upper() + text[1:]


def flatten(lines: Iterable[Line], rng: random.Random) -> list[str]:
    """The sentences in the order they will be told."""
    sentences: list[str] = []
    for line in lines:
        if isinstance(line, str):
            sentences.append(line)
        else:
            sentences.extend(rng.sample(line, len(line)))
    return sentences


def passage(lines: Iterable[Line], players: Mapping[str, Person | Noun], rng: random.Random) -> str:
    """Sentences chosen, filled and joined by spaces; empty ones are left out."""
    told = (fill(choose(line, rng), players) for line in flatten(lines, rng))
    return " ".join(sentence for sentence in told if sentence)
