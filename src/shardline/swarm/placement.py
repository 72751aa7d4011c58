"""Which blocks a newcomer takes, and what those who are here give to each block.

As many blocks as fit: a node serves whichever of its blocks are asked of it, so more of them never
lower what the swarm can carry (`capacity`), and are one more holder to fall back upon. Of all
windows of that size it takes one that holds most uncovered blocks; of these the one with which the
blocks' throughputs, sorted, are lexicographically greatest; of equals the one whose blocks have the
fewest holders; then the one where throughputs are least now, which is the greedy rule of the
runtime family that BSNS builds on (Petals; BSNS, PAPER section 1); and then the lowest.

What holds: a window holds as many uncovered blocks as any window of its size can. Joiners who
come one by one to an empty swarm cover the model as soon as their sizes sum up to its blocks.
After nodes have left, the sizes may sum up and gaps too small for the rest may stay, until
`rebalancing` closes them.
"""

from __future__ import annotations

from heapq import nsmallest
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from shardline.core.spans import Span
from shardline.swarm.capacity import levels, with_node, work_within
from shardline.swarm.records import NodeRecord, State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardline.swarm.capacity import Floats

__all__ = ["choose_span", "rate_of", "throughputs", "usual_rate", "work_of"]

_DIGITS = 9
"""Of a sum of rates: so that the records' order does not show."""
LOOKS = 64
"""Windows that are tried: those over the slowest blocks. Each takes up to half a millisecond."""


def choose_span(
    records: Iterable[NodeRecord],
    *,
    blocks: int,
    fits: int,
    block_steps_per_s: float = 0.0,
    fingerprint: str | None = None,
) -> Span:
    """The span that a node with room for `fits` blocks should take of a model of `blocks` blocks.

    Its own rate is `block_steps_per_s`, or 0 if that is not known. Nodes that load count as if they
    were ready, nodes that leave do not. With a fingerprint, only that model's nodes count. The
    records must not hold the newcomer's own. Raises ValueError if nothing fits.
    """
    if fits < 1 or blocks < 1:
        raise ValueError(f"room for {fits} of {blocks} blocks")
    here = [
        record
        for record in records
        if record.state is not State.LEAVING
        and record.blocks == blocks
        and fingerprint in {None, record.fingerprint}
    ]
    size = min(fits, blocks)
    holders = [0] * blocks
    for record in here:
        held = record.moves_to or record.span
        for block in range(held.start, held.stop):
            holders[block] += 1
    work, found = work_of(here, blocks), throughputs(here, blocks)
    rate = block_steps_per_s or usual_rate(here)

    def slowness(start: int) -> tuple[int, list[float]]:
        window = slice(start, start + size)
        return -holders[window].count(0), sorted(found[window])

    def goodness(start: int) -> tuple[list[float], ...]:
        after = levels(with_node(work, start, start + size, rate)).round(_DIGITS)
        window = slice(start, start + size)
        return (
            sorted(after),
            [-count for count in sorted(holders[window])],
            [-throughput for throughput in sorted(found[window])],
            [-start],
        )

    tried = nsmallest(LOOKS, range(blocks - size + 1), key=slowness)
    most = slowness(tried[0])[0]
    start = max((start for start in tried if slowness(start)[0] == most), key=goodness)
    return Span(start, start + size)


def throughputs(records: Iterable[NodeRecord], blocks: int) -> list[float]:
    """Steps a second by block that all who hold it, or are about to move to it, can do at once."""
    found: list[float] = levels(work_of(records, blocks)).round(_DIGITS).tolist()
    return found


def work_of(records: Iterable[NodeRecord], blocks: int) -> Floats:
    """`work_within` of these nodes, where they are or are about to move to."""
    known = list(records)
    usual = usual_rate(known)
    starts = [record.next_start if record.next_stop else record.start for record in known]
    stops = [record.next_stop or record.stop for record in known]
    rates = [rate_of(record, usual) for record in known]
    order: list[int] = np.lexsort(
        (rates, stops, starts)
    ).tolist()  # sums do not depend on the records' order
    return work_within(
        [starts[place] for place in order],
        [stops[place] for place in order],
        [rates[place] for place in order],
        blocks,
    )


def usual_rate(records: Iterable[NodeRecord]) -> float:
    """The median of the measured rates: a node that has not measured yet is a middling one."""
    rates = [record.block_steps_per_s for record in records if record.block_steps_per_s > 0]
    return median(rates) if rates else 1.0


def rate_of(record: NodeRecord, usual: float) -> float:
    """Block-steps a second."""
    return record.block_steps_per_s or usual
