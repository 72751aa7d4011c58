"""Which of this machine's cores a process runs on."""

from __future__ import annotations

import importlib
import os
import re
from typing import TYPE_CHECKING, Final

from shardline.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["cores_of", "free_cores", "pin"]

PART: Final = r"[0-9]{1,4}(?:-[0-9]{1,4})?"
CORES: Final = re.compile(rf"{PART}(?:,{PART}){{0,63}}")
SHOWN_CHARS: Final = 40


def free_cores() -> tuple[int, ...]:
    """The cores that this process may use now; raises BadInput where the system does not say."""
    if not hasattr(os, "sched_setaffinity"):
        raise BadInput("this system does not let a program choose its cores")
    return tuple(sorted(os.sched_getaffinity(0)))


def cores_of(text: str) -> tuple[int, ...]:
    """`0-3` or `0,2` as cores of this machine, each once; raises BadInput."""
    if not CORES.fullmatch(text):
        raise BadInput(f"{text[:SHOWN_CHARS]!r} names no cores: write 0-3, or 0,2")
    cores: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    free = free_cores()
    missing = sorted(cores - set(free))
    if missing or not cores:
        what = f"core {missing[0]}" if missing else f"{text[:SHOWN_CHARS]!r}"
        raise BadInput(f"{what} is not there: this process may use {_told(free)}")
    return tuple(sorted(cores))


def pin(cores: Sequence[int]) -> None:
    """Run on these cores only, with every thread that is started from now on.

    Call it before any: threads that there are stay where they are. Raises BadInput.
    """
    importlib.import_module("torch")  # loading it lets a process run on every core again
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        raise BadInput(f"cores {_told(cores)} cannot be had: {error.strerror}") from None


def _told(cores: Sequence[int]) -> str:
    """As a person writes them: runs with a dash."""
    runs: list[list[int]] = []
    for core in cores:
        if runs and runs[-1][-1] == core - 1:
            runs[-1] = [runs[-1][0], core]
        else:
            runs.append([core])
    return ",".join("-".join(map(str, run)) for run in runs)
