"""What a swarm can carry, block by block, when its callers share the work as well as can be.

A node of rate r does r block-steps a second, on whichever of its blocks are asked of it: callers
use parts of spans. So blocks of throughput y are served if every node can split its rate over its
span such that each block gets y. Of all splits there is one whose least block gets most, and then
the second least, and so on: the one that spreads work (rates) over time (blocks) within windows
(spans) most evenly. Yao, Demers and Shenker's rule for the speed of a processor finds it: the run
of blocks with the most work per block that can go nowhere else gets just that, is cut out, and so
on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Floats", "Ints", "levels", "with_node", "work_within"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NOTHING = 1e-12
"""Share of the first run's throughput that is rounding, not work."""


def work_within(
    starts: Sequence[int], stops: Sequence[int], rates: Sequence[float], blocks: int
) -> Floats:
    """At [a, b] the rates, summed up, of all whose spans lie within blocks a to b, b included."""
    work = np.zeros((blocks, blocks))
    where = np.array(starts, dtype=np.int64), np.array(stops, dtype=np.int64) - 1
    np.add.at(work, where, np.array(rates))
    return work[::-1].cumsum(0)[::-1].cumsum(1)


def with_node(work: Floats, start: int, stop: int, rate: float) -> Floats:
    """The same with one more node; a negative rate takes one away."""
    changed = work.copy()
    changed[: start + 1, stop - 1 :] += rate
    return changed


def levels(work: Floats) -> Floats:
    """Each block's throughput in the most even split; they sum up to all the rates."""
    blocks = len(work)
    found = np.zeros(blocks)
    index = np.arange(blocks)
    width = index - index[:, None] + 1.0
    width[width < 1] = np.inf  # not a run
    left = index
    least = -1.0
    while len(left):
        count = len(left)
        each = work / width[:count, :count]
        first, last = divmod(int(each.argmax()), count)
        level = float(each[first, last])
        if level <= max(least, 0.0):
            break
        least = max(least, level * _NOTHING)
        found[left[first : last + 1]] = level
        work = _without(work, first, last)
        left = np.concatenate((left[:first], left[last + 1 :]))
    return found


def _without(work: Floats, first: int, last: int) -> Floats:
    """The work on the other blocks: spans that begin or end in the run now do so at its edges."""
    count = len(work)
    rest = work.copy()
    rest[: first + 1, last:] -= work[first, last]
    # A span that began in the run begins behind it, as all that begin at `first` or later do.
    begins = [*range(first), *([first, *range(last + 2, count)] if last + 1 < count else ())]
    ends = [*([*range(first - 1), last] if first else ()), *range(last + 1, count)]
    return np.asarray(rest[np.ix_(begins, ends)])
