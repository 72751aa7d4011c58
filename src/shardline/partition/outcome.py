"""What every plan says of itself, of a chain or of a graph."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Outcome"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a plan would do, and how far from the best it can be."""

    method: str
    objective: str | float
    stage_ms: tuple[float, ...]
    """What occupies each stage in one step: transfers in and out, work, overflow."""
    bottleneck_ms: float
    latency_ms: float
    value_ms: float
    """The objective's own figure, of which the bound and the gap are."""
    lower_bound_ms: float
    gap: float
    """(value - bound) / bound; 0.01 is one percent."""
    reasons: tuple[str, ...]
    """A sentence for each node, first those that are used."""
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)
