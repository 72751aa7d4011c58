"""What a node has done, for its record's load and rate."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Tally"]

SMOOTHING = 0.9
"""How much of the measured rate is kept with each new step."""


@dataclass(slots=True)
class Tally:
    """Steps and time, counted on the engine's thread and read on the event loop."""

    steps: int = 0
    compute_s: float = 0.0
    block_steps_per_s: float = 0.0
    """Single-token steps through one block a second, smoothed."""

    def add(self, tokens: int, blocks: int, spent_s: float) -> None:
        """Count one step."""
        self.steps += 1
        self.compute_s += spent_s
        if tokens == 1 and spent_s > 0:
            rate = blocks / spent_s
            kept = SMOOTHING if self.block_steps_per_s else 0.0
            self.block_steps_per_s = kept * self.block_steps_per_s + (1 - kept) * rate
