"""Which blocks a newcomer takes: the worst covered ones (BSNS, PAPER section 1).

The greedy rule of the runtime family that BSNS builds on (Petals): of all windows that fit, the one
whose block throughputs, sorted, are lexicographically least; ties go to the lowest start.

What holds: a window holds as many uncovered blocks as any window of its size can. Joiners who
come one by one to an empty swarm cover the model as soon as their sizes sum up to its blocks.
After nodes have left, the sizes may sum up and gaps too small for the rest may stay: rebalancing
is a later matter.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from shardline.core.spans import Span
from shardline.swarm.records import NodeRecord, State

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["choose_span"]


def choose_span(
    records: Iterable[NodeRecord], *, blocks: int, fits: int, fingerprint: str | None = None
) -> Span:
    """The span that a node with room for `fits` blocks should take of a model of `blocks` blocks.

    Nodes that load count as if they were ready, nodes that leave do not. With a fingerprint,
    only that model's nodes count. The records must not hold the newcomer's own.
    Raises ValueError if nothing fits.
    """
    if fits < 1 or blocks < 1:
        raise ValueError(f"room for {fits} of {blocks} blocks")
    holders = [
        record
        for record in records
        if record.state is not State.LEAVING
        and record.blocks == blocks
        and fingerprint in {None, record.fingerprint}
    ]
    throughputs = _throughputs(holders, blocks)
    size = min(fits, blocks)
    starts = range(blocks - size + 1)
    start = min(starts, key=lambda start: sorted(throughputs[start : start + size]))
    return Span(start, start + size)


def _throughputs(holders: list[NodeRecord], blocks: int) -> list[float]:
    """Steps a second by block; a node of n blocks gives rate / ((n + 1) / 2) to each of them.

    A node that has not measured yet is taken for a middling one.
    """
    rates = [record.block_steps_per_s for record in holders if record.block_steps_per_s > 0]
    usual = median(rates) if rates else 1.0
    found = [0.0] * blocks
    for record in holders:
        share = (record.block_steps_per_s or usual) * 2 / (len(record.span) + 1)
        for block in range(record.start, record.stop):
            found[block] += share
    return found
