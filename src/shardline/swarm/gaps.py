"""Blocks that nobody holds: which, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shardline.core.spans import Span, gaps
from shardline.swarm.records import NodeRecord, State

if TYPE_CHECKING:
    from collections.abc import Collection

    from shardline.core.ids import NodeId

__all__ = ["explained", "gaps_of"]

NAMES_MAX: Final = 3


def gaps_of(usable: list[NodeRecord], part: Span) -> list[Span]:
    """The part's gaps; spans are clipped to it and moved to its start, and the gaps moved back."""
    clipped = {
        (max(record.start, part.start) - part.start, min(record.stop, part.stop) - part.start)
        for record in usable
    }
    found = gaps((Span(*ends) for ends in clipped), len(part))
    return [Span(gap.start + part.start, gap.stop + part.start) for gap in found]


def explained(
    missing: list[Span],
    known: list[NodeRecord],
    fingerprint: str,
    dtype: str | None,
    avoid: Collection[NodeId],
) -> str:
    """One line: the gaps, and what stands in their place if anything does."""
    text = f"no live node holds blocks {', '.join(map(str, missing))}"
    if dtype is not None:
        text += f" in {dtype}"
    ours = [record for record in known if record.fingerprint == fingerprint]
    if known and not ours:
        others = sorted({record.model for record in known})
        return f"{text} of this model: the nodes here serve {', '.join(others[:NAMES_MAX])}"
    near = [
        record
        for record in ours
        if any(record.start < gap.stop and gap.start < record.stop for gap in missing)
    ]
    reasons = {
        "loading": sum(record.state is State.LOADING for record in near),
        "leaving": sum(record.state is State.LEAVING for record in near),
        "avoided": sum(record.state is State.READY and record.node in avoid for record in near),
    }
    notes = [f"{count} {reason}" for reason, count in reasons.items() if count]
    return f"{text} ({', '.join(notes)})" if notes else text
