"""What `shardline bench node` and `bench chain` are asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from shardline.cli.cores import free_cores
from shardline.cli.serve import serve
from shardline.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Wanted", "dtype_of", "numbers", "own_cores", "serve_options"]

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
    arrivals: int
    """Sessions that come at different times; 0 leaves that out."""
    rows: bool
    pin: bool | None
    """Each node on cores of its own; None: where there are several, and cores for all."""
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


def own_cores(wanted: Wanted, threads: int) -> Sequence[Sequence[str]]:
    """What to tell the `serve` of each node, so that each has cores of its own; nothing if not.

    Raises BadInput if it is asked for and cannot be had.
    """
    needed = wanted.nodes * threads
    if wanted.pin is False or (wanted.pin is None and not _worth_pinning(wanted, needed)):
        return ()
    free = free_cores()
    if needed > len(free):
        raise BadInput(f"--pin needs {needed} cores, and this process may use {len(free)}")
    starts = range(0, needed, threads)
    return [("--cores", ",".join(map(str, free[start : start + threads]))) for start in starts]


def _worth_pinning(wanted: Wanted, cores: int) -> bool:
    if wanted.nodes == 1 or wanted.device != "cpu":
        return False
    try:
        return cores <= len(free_cores())
    except BadInput:
        return False
