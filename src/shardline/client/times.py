"""Where a step's time and bytes went."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["StepTimes"]


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
