"""Contiguous runs of a model's blocks, and what a set of them covers (BSNS, PAPER section 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardline.core.errors import BlocksOutOfRange

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Span", "gaps"]


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Blocks [start, stop) of a model."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"empty or negative span {self.start}:{self.stop}")

    def __len__(self) -> int:
        return self.stop - self.start

    def __contains__(self, block: int) -> bool:
        return self.start <= block < self.stop

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}"

    @classmethod
    def parse(cls, text: str, *, blocks: int) -> Span:
        """Read `A:B` for a model of `blocks` blocks; raises BlocksOutOfRange for anything else."""
        start, colon, stop = text.partition(":")
        if not (colon and start.isdecimal() and stop.isdecimal()):
            raise BlocksOutOfRange(f"--blocks wants A:B or auto, not {text!r}")
        if not int(start) < int(stop) <= blocks:
            raise BlocksOutOfRange(f"blocks {text} are not within this model's 0:{blocks}")
        return cls(int(start), int(stop))


def gaps(spans: Iterable[Span], blocks: int) -> list[Span]:
    """The runs of blocks in [0, blocks) that no span holds, in order."""
    missing: list[Span] = []
    reached = 0
    for span in sorted(spans):
        if span.start > reached:
            missing.append(Span(reached, min(span.start, blocks)))
        reached = max(reached, span.stop)
        if reached >= blocks:
            return missing
    if reached < blocks:
        missing.append(Span(reached, blocks))
    return missing
