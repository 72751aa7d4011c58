"""What `shardline bench node` and `bench chain` are asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from shardline.cli.serve import serve
from shardline.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Wanted", "dtype_of", "numbers", "serve_options"]

NUMBERS: Final = re.compile(r"[0-9]{1,7}(?:,[0-9]{1,7}){0,31}")
DTYPES: Final = {
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "fp32": "float32",
    "float32": "float32",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to measure."""

    model: str | None
    shape: str
    weights: str | None
    threads: int | None
    device: str
    nodes: int
    callers: int
    batches: tuple[int, ...]
    prompts: tuple[int, ...]
    tokens: int
    rows: bool
    quick: bool


def numbers(text: str, most: int) -> tuple[int, ...]:
    """`1,4,8` as numbers from 1 to `most`, each once and in their order; raises BadInput."""
    found = tuple(map(int, text.split(","))) if NUMBERS.fullmatch(text) else ()
    if not found or min(found) < 1 or max(found) > most:
        raise BadInput(f"{text[:40]!r} are no numbers from 1 to {most}: write 1,4,8")
    return tuple(sorted(set(found)))


def dtype_of(weights: str | None) -> str | None:
    """The dtype that this kind of weights names; None leaves it to the checkpoint."""
    return DTYPES.get(weights or "")


def serve_options(weights: str | None) -> Sequence[str]:
    """What to tell `serve` of weights that are no plain dtype; raises BadInput for unknown ones."""
    if weights is None or weights in DTYPES:
        return ()
    asked = next((option for option in serve.params if "--weights" in option.opts), None)
    kinds = asked.type.choices if asked is not None and isinstance(asked.type, click.Choice) else ()
    if asked is None or (kinds and weights not in kinds):
        known = ", ".join(dict.fromkeys(["bf16", "fp32", *map(str, kinds)]))
        raise BadInput(f"{weights[:40]!r} is no kind of weights: write one of {known}")
    return ("--weights", weights)
