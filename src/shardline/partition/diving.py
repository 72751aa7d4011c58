"""Which span each node should hold so that all carry most: fixed step by step, then tried anew.

While spans are open, `carry` uses each node for whatever it could hold, in parts of its time. A
dive fixes the spans of those nodes that are used nearly for one only, carries again, and so on. A
node holds as much as it has room for, as that never carries less. Then parts of the nodes are
opened and dived anew, and the better arrangement stays.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shardline.core.spans import Span
from shardline.partition.carrying import Flow, carry
from shardline.partition.sweeping import Uses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from shardline.partition.carrying import Shares
    from shardline.partition.costs import Costs

    Over = Callable[[], bool]

__all__ = ["Arrangement", "Diver"]

CLOSE = 3e-3
ON_THE_WAY = 1e-2
"""How close to their bound flows are brought once all spans are fixed, and before: more costs time
and decides nothing."""
CERTAIN = 0.95
"""A node used so much for one span is fixed to it at once."""
PART = 5
"""Of the open nodes one in so many is fixed in each step, if none is certain."""
ROUNDS, ROUNDS_NODES = 80, 1_600
"""Of trying something else, where no clock ends the search: so many, and fewer where nodes are
many."""
MOVED = 0.4
"""In so many of these one node is moved; in the others up to OPENED of the nodes are open."""
GAIN = 1e-3
"""What a new arrangement must carry more."""
OPENED = 0.5


class Arrangement(NamedTuple):
    """What each node holds, and what that carries."""

    held: dict[int, Span]
    flow: Flow


class Diver:
    """Searches arrangements; the same generator gives the same ones if no clock ends it."""

    def __init__(self, costs: Costs, rng: np.random.Generator, over: Over) -> None:
        self._costs, self._rng, self._over = costs, rng, over
        self._windows = [_windows(costs, node) for node in range(costs.nodes)]

    def widened(self, held: Mapping[int, Span]) -> dict[int, Span]:
        """The same spans, with what else their nodes have room for on both sides."""
        return {
            node: min(
                (one for one in self._windows[node] if _within(span, one)),
                key=lambda one: abs(one.start + one.stop - span.start - span.stop),
                default=span,
            )
            for node, span in held.items()
        }

    def settled(
        self,
        held: dict[int, Span],
        known: Iterable[Shares],
        close: float = CLOSE,
        hopeless: float = 0.0,
    ) -> Arrangement:
        """What these spans carry, the other nodes idle."""
        uses = Uses(self._costs, held, others=False)
        flow = carry(uses, known, close=close, hopeless=hopeless, over=self._over)
        return Arrangement(held, flow)

    def dive(
        self, held: Mapping[int, Span], known: Iterable[Shares], hopeless: float = 0.0
    ) -> Arrangement:
        """From these spans and routes: spans for the other nodes, as far as they are of use.

        It ends early when it can carry no more than what is `hopeless`.
        """
        held, known = dict(held), tuple(known)
        while len(held) < self._costs.nodes:
            uses = Uses(self._costs, held, others=True)
            flow = carry(uses, known, close=ON_THE_WAY, hopeless=hopeless, over=self._over)
            known = flow.known
            fixed = self._fixed(uses, flow, held)
            held.update(fixed)
            if not fixed or flow.bound <= hopeless or self._over():
                break
        return self.settled(held, known, hopeless=hopeless)

    def _fixed(self, uses: Uses, flow: Flow, held: Mapping[int, Span]) -> dict[int, Span]:
        """Spans for those open nodes that are used most nearly for one."""
        spent: dict[int, dict[Span, float]] = {}
        for route, rate in flow.rates:
            for share in route:
                if share.node not in held:
                    span = Span(share.start, share.stop)
                    used = spent.setdefault(share.node, {})
                    time_s = float(uses.seconds[share.start, share.node, len(span) - 1])
                    used[span] = used.get(span, 0.0) + rate * time_s
        found = [(*self._best(node, used), node) for node, used in spent.items()]
        found.sort(key=lambda one: (-one[0], one[2]))
        certain = sum(part >= CERTAIN for part, _, _ in found)
        count = len(found) if self._over() else max(certain, 1 + len(found) // PART)
        return {node: span for _, span, node in found[:count]}

    def _best(self, node: int, used: Mapping[Span, float]) -> tuple[float, Span]:
        """The span in which this node does most of its work, and which part of it that is."""
        total = sum(used.values())
        main = max(used, key=lambda span: (used[span], -span.start))
        middle = sum(work * (span.start + span.stop) for span, work in used.items()) / total

        def within(window: Span) -> tuple[float, float]:
            work = sum(work for span, work in used.items() if _within(span, window))
            return work, -abs(window.start + window.stop - middle)

        best = max([main, *self._windows[node]], key=within)
        return within(best)[0] / total, best

    def improved(self, best: Arrangement, bound: float) -> Arrangement:
        """With one node's span moved, or part of the nodes opened anew, again and again.

        It ends when no more than GAIN is left to the bound.
        """
        for _ in range(max(1, min(ROUNDS, ROUNDS_NODES // self._costs.nodes))):
            least = best.flow.tokens_per_s * (1 + GAIN)
            if least >= bound or self._over():
                break
            if self._rng.random() < MOVED:
                moved = best.held | self._elsewhere()
                tried = self.settled(moved, best.flow.known, hopeless=least)
            else:
                tried = self.dive(self._opened(best.held), best.flow.known, least)
            if tried.flow.tokens_per_s > least:
                best = tried
        return best

    def _elsewhere(self) -> dict[int, Span]:
        """Some node with any of its windows, or with any blocks if it can stream."""
        node = int(self._rng.integers(self._costs.nodes))
        if self._costs.problem.nodes[node].stream_bytes_per_s:
            cuts = self._rng.choice(self._costs.blocks + 1, 2, replace=False)
            return {node: Span(int(cuts.min()), int(cuts.max()))}
        windows = self._windows[node]
        return {node: windows[int(self._rng.integers(len(windows)))]} if windows else {}

    def _opened(self, held: Mapping[int, Span]) -> dict[int, Span]:
        count = self._costs.nodes
        opened = set(
            np.flatnonzero(self._rng.random(count) < self._rng.uniform(0, OPENED)).tolist()
        )
        opened.add(int(self._rng.integers(count)))
        return {node: span for node, span in held.items() if node not in opened}


def _within(span: Span, window: Span) -> bool:
    return window.start <= span.start and span.stop <= window.stop


def _windows(costs: Costs, node: int) -> list[Span]:
    """The widest spans that this node holds without streaming; none lies within another."""
    problem = costs.problem
    blocks, may = problem.blocks, problem.nodes[node].holds
    sizes = [0, *accumulate(block.parameter_bytes + block.cache_bytes for block in blocks)]
    lowest, highest = (may.start, may.stop) if may else (0, len(blocks))
    room = problem.nodes[node].memory_bytes
    found: list[Span] = []
    for start in range(lowest, highest):
        stop = min(highest, bisect_right(sizes, sizes[start] + room) - 1)
        if stop > start and (not found or stop > found[-1].stop):
            found.append(Span(start, stop))
    return found
