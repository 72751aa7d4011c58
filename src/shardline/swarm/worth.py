"""What a placement is worth to callers when links count: seconds a step takes with many at once.

With N callers at once a step takes about `way + N * slowest`, as in any closed network of queues:
`way` is what the chain that routing takes would need alone, links and blocks, for a caller beside
one node or another on the mean; `slowest` is the time between two steps that all chains together
can do (`capacity`), smoothed as in `rebalancing`. N is the number of nodes: a swarm of twice the
nodes has twice the callers, and so the two parts keep their proportion.

A step changes nodes where the next one's span begins or the last one's ends, as in `routing`.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

import numpy as np

from shardline.swarm.capacity import Floats, Ints, levels, work_within

if TYPE_CHECKING:
    from shardline.swarm.ways import Ways

__all__ = ["POWER", "Worth"]

POWER: Final = 14
"""Of the stand-in for the least throughput: larger is nearer to it and blinder beside it."""
CALLERS_MAX: Final = 16
"""Nodes beside which callers are thought; those of every so many-th id."""


class Worth:
    """Placements of these nodes, in the order of `ways.nodes`, on so many blocks.

    `rates` are block-steps a second. Spans are given as their first blocks and the blocks behind.
    """

    def __init__(self, ways: Ways, rates: Floats, blocks: int) -> None:
        self.blocks = blocks
        self.rates = rates
        self._block_s = 1 / rates
        self._hop_s = ways.hop_s
        count = len(rates)
        self._ends: Ints = np.unique(
            np.linspace(0, count - 1, min(count, CALLERS_MAX)).astype(np.int64)
        )

    def value_s(self, starts: Ints, stops: Ints) -> float:
        """Seconds a step takes in this placement; infinite if a block is uncovered."""
        work = work_within(starts.tolist(), stops.tolist(), self.rates.tolist(), self.blocks)
        return float(self._ways_s(starts, stops).mean()) + self._crowd_s(work)

    def _crowd_s(self, work: Floats) -> float:
        """What waiting for all others takes: the slowest's time, for as many callers as nodes."""
        with np.errstate(divide="ignore"):
            each_s = 1 / levels(work)
        most = float(each_s.max())
        if most == inf:
            return inf
        return len(self.rates) * most * float(((each_s / most) ** POWER).mean() ** (1 / POWER))

    def _ways_s(self, starts: Ints, stops: Ints) -> Floats:
        """Of each caller the shortest way through all blocks and back."""
        out_s = self._hop_s[self._ends]
        # At [c, i]: the least time until node i begins this block of a step of caller c.
        here = np.where(starts == 0, out_s, inf)
        for block in range(1, self.blocks):
            done = here + self._block_s
            here = np.where(stops > block, done, inf)
            came, ended = np.flatnonzero(starts == block), np.flatnonzero(stops == block)
            here[:, came] = _least(done, self._hop_s[:, came])
            if len(ended):
                stay = np.flatnonzero((starts < block) & (stops > block))
                changed = _least(done[:, ended], self._hop_s[np.ix_(ended, stay)])
                here[:, stay] = np.minimum(here[:, stay], changed)
        back_s = self._hop_s[:, self._ends].T
        return np.asarray((here + self._block_s + back_s).min(axis=1))


def _least(done: Floats, hop_s: Floats) -> Floats:
    """At [c, i]: the least over j of done[c, j] + hop_s[j, i]; infinite if there is no j."""
    return np.asarray((done[:, :, None] + hop_s).min(axis=1, initial=inf))
