"""Questions with one right answer among options, and the texts that come with shardline.

The shipped ones are the held-out miniatures of five public tasks that `evals/fable` generates and
on which the shipped model was trained; they need no download. See `miniatures/`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from shardline.evaluation.measures import Losses, Shares

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardline.evaluation.weighing import Weigher, Weight

__all__ = [
    "MINIATURES",
    "Asked",
    "Questions",
    "Text",
    "choice",
    "shipped_questions",
    "shipped_text",
]

MINIATURES = ("last-word", "ending", "pronoun", "cause", "order")
PER_BYTE = frozenset({"ending"})
"""Options that are sentences differ in length: as HellaSwag's `acc_norm`."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt and its options; `" " + options[answer]` is what should follow."""

    prompt: str
    options: tuple[str, ...]
    answer: int


def choice(options: Sequence[str], weights: Sequence[Weight], *, per_byte: bool) -> int:
    """Which option is likeliest after its prompt: as it is, or per byte of its text."""
    sizes = [len(option.encode()) if per_byte else 1 for option in options]
    shares = [one.likelihood / size for one, size in zip(weights, sizes, strict=True)]
    return shares.index(max(shares))


@dataclass(frozen=True, slots=True)
class Questions:
    """A task: of each question's options the likeliest is the answer."""

    name: str
    asked: tuple[Asked, ...]
    per_byte: bool = False

    def measure(self, model: Weigher) -> Shares:
        """Ask all of them."""
        pairs = [(one.prompt, f" {option}") for one in self.asked for option in one.options]
        weights = iter(model.weigh(pairs))
        chosen = [
            choice(one.options, [next(weights) for _ in one.options], per_byte=self.per_byte)
            for one in self.asked
        ]
        return Shares(
            tuple(one.options[at] for one, at in zip(self.asked, chosen, strict=True)),
            tuple(one.answer == at for one, at in zip(self.asked, chosen, strict=True)),
        )


@dataclass(frozen=True, slots=True)
class Text:
    """A task: how surprising these texts are, each from its beginning."""

    name: str
    texts: tuple[str, ...]

    def measure(self, model: Weigher) -> Losses:
        """Read all of them; a text longer than the model's context counts as several."""
        rows = [row for text in self.texts for row in model.windows(text)]
        weights = model.weigh_ids(rows)
        return Losses(
            tuple(-one.likelihood for one in weights), tuple(one.likeliest for one in weights)
        )


def shipped_questions(name: str, limit: int | None = None) -> Questions:
    """One of `MINIATURES`, or its first questions."""
    rows = [json.loads(line) for line in _lines(f"{name}.jsonl", limit)]
    asked = tuple(Asked(row["prompt"], tuple(row["options"]), row["answer"]) for row in rows)
    return Questions(name, asked, name in PER_BYTE)


def shipped_text(name: str, limit: int | None = None) -> Text:
    """Held-out stories of the shipped model's world, or the first of them, as a task `name`."""
    return Text(name, tuple(json.loads(line)["text"] for line in _lines("stories.jsonl", limit)))


def _lines(file: str, limit: int | None) -> list[str]:
    return (
        (files("shardline.evaluation") / "miniatures" / file)
        .read_text("utf-8")
        .splitlines()[:limit]
    )
