"""Which blocks a newcomer takes: the worst covered ones (BSNS, PAPER section 1).

The greedy rule of the runtime family that BSNS builds on (Petals): of all windows that fit, the one
whose block throughputs, sorted, are lexicographically least; ties go to the lowest start.

What holds: a window holds as many uncovered blocks as any window of its size can. Joiners who
come one by one to an empty swarm cover the model as soon as their sizes sum up to its blocks.
After nodes have left, the sizes may sum up and gaps too small for the rest may stay, until
`rebalancing` closes them.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from shardline.core.spans import Span
from shardline.swarm.records import NodeRecord, State

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["choose_span", "share", "throughputs", "usual_rate"]

_DIGITS = 9
"""Of a sum of rates: so that the records' order does not show."""


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
    found = throughputs(holders, blocks)
    size = min(fits, blocks)
    starts = range(blocks - size + 1)
    start = min(starts, key=lambda start: sorted(found[start : start + size]))
    return Span(start, start + size)


def throughputs(records: Iterable[NodeRecord], blocks: int) -> list[float]:
    """Steps a second by block, summed over the nodes that hold it or are about to move to it."""
    known = list(records)
    usual = usual_rate(known)
    gives = [share(record, usual) for record in known]
    starts = [record.next_start if record.next_stop else record.start for record in known]
    stops = [record.next_stop or record.stop for record in known]
    # What begins at each block less what ends there, added up: nodes x blocks would be slow.
    ends = np.array(starts + stops, dtype=np.int64)
    count = len(known)
    weights = np.array(gives + [-give for give in gives])
    holders = np.repeat([1.0, -1.0], count)
    sums = np.bincount(ends, weights, minlength=blocks + 1).cumsum()[:blocks]
    holders = np.bincount(ends, holders, minlength=blocks + 1).cumsum()[:blocks]
    found: list[float] = np.where(holders > 0, sums.round(_DIGITS), 0.0).tolist()
    return found


def usual_rate(records: Iterable[NodeRecord]) -> float:
    """The median of the measured rates: a node that has not measured yet is a middling one."""
    rates = [record.block_steps_per_s for record in records if record.block_steps_per_s > 0]
    return median(rates) if rates else 1.0


def share(record: NodeRecord, usual: float) -> float:
    """What a node of n blocks gives to each of them: its rate / ((n + 1) / 2) steps a second."""
    return (record.block_steps_per_s or usual) * 2 / (record.stop - record.start + 1)
