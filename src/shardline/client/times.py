"""Where a step's time and bytes went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shardline.swarm import Hop

__all__ = ["Passed", "StepTimes"]


@dataclass(frozen=True, slots=True)
class StepTimes:
    """One step of one session."""

    wall_s: float
    nodes_s: tuple[float, ...]
    """What each node of the chain computed."""
    moved_bytes: int
    """Of what crossed the chain's links."""
    saved_bytes: int = 0
    """What it would be more if all crossed raw."""
    wires: tuple[str, ...] = ()
    """The codec of the hidden states on each link: from here to the first node, and so on."""
    beside: int = 0
    """Tokens of other sessions that some node computed together with it."""
    shared_tokens: int = 0
    """Those before its own that the nodes held in pages, where it began a session."""

    @property
    def overhead_ms(self) -> float:
        """Time per link that no node computed in: codecs, frames, queues, wake-ups, network."""
        links = len(self.nodes_s) + 1
        return 1e3 * max(0.0, self.wall_s - sum(self.nodes_s)) / links


@dataclass(frozen=True, slots=True)
class Passed:
    """How a plain call went, whose batch may have gone in parts."""

    chain: tuple[Hop, ...]
    """Of the part that came back last."""
    steps: tuple[StepTimes, ...]
    rows: tuple[int, ...]
    """Of each part."""
    wall_s: float

    @property
    def moved_bytes(self) -> int:
        """Bytes of tensors that crossed any link."""
        return sum(step.moved_bytes for step in self.steps)
