"""Which nodes became slow: a node is compared with what it was itself (issue B; PAPER section 1).

A node that is slower than others is a slow node, and routing knows its rate. A straggler is one
that was faster before: a laptop on its battery, a machine with a second job. Its baseline is an
average of what its steps took; it is a straggler while the median of its last steps is far above
that, so one pause (a garbage collection, a burst on the link) makes none. The baseline follows slow
steps slowly: a node that stays slow is, after some hundred steps, simply a slow node.

Pure: times come in, there is no clock inside. Feed it times that should be equal: those of
single-token steps, divided by the blocks they passed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shardline.core.ids import NodeId

__all__ = ["Stragglers"]

FACTOR = 5.0
"""How much slower than its baseline a straggler is. Less calls busy nodes stragglers."""
STEPS = 5
"""Steps whose median is looked at: the third slow one of five tells."""
STEPS_LEAST = 8
"""Steps before a node is judged at all; its first ones warm caches up."""
FOLLOW = 0.05
"""How much of the way the baseline goes to each step."""
RISE_MAX = 1.02
"""What one step may raise the baseline by: 35 slow steps double it."""
OVERDUE_FACTOR = 10.0
OVERDUE_S = 2.0
"""A step under way is overdue when it takes longer than both; shorter pauses are sat out."""
NODES_MAX = 4_096


@dataclass(slots=True)
class _Pace:
    base_s: float
    steps: int = 0
    last_s: deque[float] = field(default_factory=lambda: deque[float](maxlen=STEPS))


class Stragglers:
    """One caller's measure of the nodes that it uses."""

    def __init__(self, *, factor: float = FACTOR) -> None:
        self._factor = factor
        self._paces: dict[NodeId, _Pace] = {}

    def add(self, node: NodeId, block_s: float) -> bool:
        """A step took this long a block; returns whether the node is a straggler now."""
        pace = self._paces.get(node)
        if pace is None:
            if len(self._paces) >= NODES_MAX:
                del self._paces[next(iter(self._paces))]
            pace = self._paces[node] = _Pace(block_s)
        pace.steps += 1
        pace.last_s.append(block_s)
        if pace.steps <= STEPS:
            pace.base_s = median(pace.last_s)
        else:
            raised_s = pace.base_s + FOLLOW * (block_s - pace.base_s)
            pace.base_s = min(raised_s, RISE_MAX * pace.base_s)
        return self.is_straggler(node)

    def is_straggler(self, node: NodeId) -> bool:
        """Whether its last steps took far longer than its steps used to."""
        pace = self._paces.get(node)
        if pace is None or pace.steps < STEPS_LEAST:
            return False
        return median(pace.last_s) > self._factor * pace.base_s

    def overdue(self, node: NodeId, blocks: int, waiting_s: float) -> bool:
        """Whether a step through this many of its blocks has been under way for far too long.

        A node whose every step takes long would need too much time to show enough slow ones.
        """
        pace = self._paces.get(node)
        if pace is None or pace.steps < STEPS_LEAST:
            return False
        return waiting_s > max(OVERDUE_S, OVERDUE_FACTOR * blocks * pace.base_s)

    def forget(self, node: NodeId) -> None:
        """The node left, moved or started anew: what it was says nothing of what it is."""
        self._paces.pop(node, None)
