"""Which part of a chain has to be replaced when nodes are gone. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardline.core.spans import Span

if TYPE_CHECKING:
    from collections.abc import Collection

    from shardline.swarm.routing import Hop

__all__ = ["Gap", "first_gap", "mend"]


@dataclass(frozen=True, slots=True)
class Gap:
    """Hops [first, stop) of a chain, next to each other, whose seats are lost."""

    first: int
    stop: int
    span: Span


def first_gap(chain: tuple[Hop, ...], lost: Collection[int]) -> Gap | None:
    """The first run of hops whose first blocks are among the lost, as long as it goes on."""
    first = next((at for at, hop in enumerate(chain) if hop.span.start in lost), None)
    if first is None:
        return None
    stop = first
    while stop < len(chain) and chain[stop].span.start in lost:
        stop += 1
    return Gap(first, stop, Span(chain[first].span.start, chain[stop - 1].span.stop))


def mend(chain: tuple[Hop, ...], gap: Gap, hops: tuple[Hop, ...]) -> tuple[Hop, ...]:
    """The chain with these hops in the gap; raises ValueError if they do not fill it exactly."""
    ends = [gap.span.start, *(hop.span.stop for hop in hops)]
    starts = [*(hop.span.start for hop in hops), gap.span.stop]
    if ends != starts:
        raise ValueError(f"{hops} do not fill {gap.span}")
    return chain[: gap.first] + hops + chain[gap.stop :]
