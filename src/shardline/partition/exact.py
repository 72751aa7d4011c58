"""The best chain for certain, by dynamic programming over sets of nodes.

`table[S, i, s]`: the chain uses the nodes S, ends with i, and has done blocks [0, s). For latency
it holds the least time so far. For throughput, where a stage is known only once the link out of it
is, a limit on all stages is given, and it holds the least time of the last stage so far; the limit
is then bisected. Both take O(2^n n L (n + band)) time and O(2^n n L) memory for n nodes, L blocks
and at most `band` blocks a node; the bisection repeats it some ten times.

A mix needs both figures at once: the least latency within a limit is found for each limit that
matters, from none downwards (the Pareto front). There the state is the link between two nodes,
`arcs[S, j, i, r]`, which costs n times as much and is repeated for each point of the front.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import numpy as np

from shardline.core.errors import BadInput
from shardline.partition.costs import Costs
from shardline.partition.problem import Figures, Problem, Share, evaluate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Chain = tuple[Share, ...]

__all__ = ["MIX_NODES_MAX", "NODES_MAX", "exact"]

NODES_MAX = 14
"""Each more doubles time and memory: 14 nodes and 126 blocks take 240 MB."""
MIX_NODES_MAX = 8
CLOSE = 1e-9
"""Relative; plans nearer than this to each other are equally good."""
NEAR = 1e-3
"""Relative; the bisection of the limit stops here and asks for anything better at all."""


def exact(problem: Problem, weight: float) -> Chain:
    """The best chain; raises BadInput for too many nodes, or if none can hold the model."""
    limit = NODES_MAX if weight in {0.0, 1.0} else MIX_NODES_MAX
    if len(problem.nodes) > limit:
        kind = "a mix" if limit == MIX_NODES_MAX else "one objective"
        raise BadInput(f"exact takes at most {limit} nodes for {kind}, not {len(problem.nodes)}: "
                       "--method auto plans for more and states its gap")  # fmt: skip
    costs = Costs(problem)
    costs.check_room()
    chain = _Sets(costs).chain(inf)
    if chain is None:
        raise BadInput("no chain of reachable nodes can hold the model")
    if weight == 0:
        return chain
    if weight == 1:
        return _least_bottleneck(costs, chain)
    return _best_mix(costs, chain, weight)


def _least_bottleneck(costs: Costs, chain: Chain) -> Chain:
    """Bisect the limit until nothing better is possible."""
    problem = costs.problem
    upper_s, lower_s = evaluate(problem, chain).bottleneck_s, 0.0
    sure = False
    while not sure:
        # Near the end, ask outright whether anything beats the best.
        sure = upper_s - lower_s < NEAR * upper_s
        limit_s = upper_s * (1 - CLOSE) if sure else (upper_s + lower_s) / 2
        found = _Sets(costs, limit_s).chain(limit_s)
        if found is None:
            lower_s = limit_s
        else:
            chain, upper_s, sure = found, min(limit_s, evaluate(problem, found).bottleneck_s), False
    return chain


class _Sets:
    """One pass over all sets of nodes, by size."""

    def __init__(self, costs: Costs, limit_s: float = inf) -> None:
        self.costs, self.limit_s = costs, limit_s
        count, blocks = costs.nodes, costs.blocks
        links = [costs.links(max(cut, 1)) for cut in range(blocks)] if blocks > 1 else []
        empty = np.zeros((1, count, count))
        self.transfer = np.stack([link[0] for link in links]) if links else empty
        self.hop = np.stack([link[1] for link in links]) if links else empty
        self.table = np.full((2**count, count, blocks + 1), inf)
        masks: Ints = np.arange(1 << count)
        sizes: Ints = np.bitwise_count(masks)
        for size in range(1, count + 1):
            for node in range(count):
                chosen: Ints = masks[(sizes == size) & ((masks >> node) & 1 == 1)]
                entered = self._entered(chosen ^ (1 << node), node)
                self.table[chosen, node] = self._filled(entered, node)

    def _entered(self, before: Ints, node: int) -> Floats:
        """The least value on entering the node, [set, cut]; of its stage, or of the way so far."""
        blocks = self.costs.blocks
        entered = np.full((len(before), blocks), inf)
        for place, mask in enumerate(before[:1]):
            if mask == 0:
                transfer, hop = self.costs.ends(first=True)
                entered[place, 0] = (hop if self.limit_s == inf else transfer)[node]
        for sender in range(self.costs.nodes):
            if sender == node:
                continue
            reached = self.table[before, sender, :blocks]
            if self.limit_s == inf:
                np.minimum(entered, reached + self.hop[:, node, sender], out=entered)
                continue
            sent = self.transfer[:, node, sender]
            within = reached + sent <= self.limit_s
            np.minimum(entered, np.where(within, sent, inf), out=entered)
        return entered

    def _filled(self, entered: Floats, node: int) -> Floats:
        """The least value with blocks done up to each cut, [set, cut]."""
        blocks = self.costs.blocks
        filled = np.full((len(entered), blocks + 1), inf)
        for extra in range(self.costs.band):
            starts = blocks - extra
            taken = entered[:, :starts] + self.costs.segment[:starts, node, extra]
            np.minimum(filled[:, extra + 1 :], taken, out=filled[:, extra + 1 :])
        return filled

    def chain(self, limit_s: float) -> Chain | None:
        """The best chain of all sets, or None if the limit allows none."""
        blocks, nodes = self.costs.blocks, self.costs.nodes
        transfer, hop = self.costs.ends(first=False)
        ends = self.table[:, :, blocks] + (hop if self.limit_s == inf else transfer)
        mask, node = (int(index) for index in np.unravel_index(ends.argmin(), ends.shape))
        if not (ends[mask, node] <= limit_s and np.isfinite(ends[mask, node])):
            return None
        shares: list[Share] = []
        stop = blocks
        while True:
            before = np.array([mask ^ (1 << node)])
            entered = self._entered(before, node)[0]
            starts: Ints = np.arange(max(0, stop - self.costs.band), stop)
            values = entered[starts] + self.costs.segment[starts, node, stop - 1 - starts]
            start = int(starts[values.argmin()])
            shares.append(Share(int(self.costs.names[node]), start, stop))
            mask ^= 1 << node
            if mask == 0:
                return tuple(reversed(shares))
            reached = self.table[mask, :, start]
            if self.limit_s == inf:
                values = reached + self.hop[start, node]
            else:
                sent = self.transfer[start, node]
                values = np.where(reached + sent <= self.limit_s, sent, inf)
            values = np.where((mask >> np.arange(nodes)) & 1 == 1, values, inf)
            node, stop = int(values.argmin()), start


def _best_mix(costs: Costs, chain: Chain, weight: float) -> Chain:
    """Walk the Pareto front from the least latency down to the least bottleneck."""

    def figures(chain: Chain) -> Figures:
        return evaluate(costs.problem, chain)

    def value_s(chain: Chain) -> float:
        return figures(chain).value_s(weight)

    last = _least_bottleneck(costs, chain)
    floor_s = figures(last).bottleneck_s
    best = min((chain, last), key=value_s)
    point: Chain | None = chain
    while point is not None:
        now = figures(point)
        if weight * floor_s + (1 - weight) * now.latency_s >= figures(best).value_s(weight):
            break  # whatever comes later on the front is slower still
        limit_s = now.bottleneck_s * (1 - CLOSE)
        point = _fastest_within(costs, limit_s)
        if point is not None:
            best = min((best, point), key=value_s)
    return best


def _fastest_within(costs: Costs, limit_s: float) -> Chain | None:
    """The chain of least latency whose stages all keep the limit."""
    ways = _Ways(costs, limit_s)
    for mask in range(2**costs.nodes):
        for node in range(costs.nodes):
            if not mask >> node & 1:
                ways.extend(mask, node)
    return ways.chain()


class _Ways:
    """`arcs[S, j, i, r]`: the least latency with the set S done, over the link from j to i at r."""

    def __init__(self, costs: Costs, limit_s: float) -> None:
        self.costs, self.limit_s = costs, limit_s
        nodes, blocks = costs.nodes, costs.blocks
        # [cut, to, from] with the caller last, who alone is before the first and after the last.
        self.transfer = np.full((blocks + 1, nodes + 1, nodes + 1), inf)
        self.hop = self.transfer.copy()
        for target, which in ((self.transfer, 0), (self.hop, 1)):
            for cut in range(1, blocks):
                target[cut, :nodes, :nodes] = costs.links(cut)[which]
            target[0, :nodes, nodes] = costs.ends(first=True)[which]
            target[blocks, nodes, :nodes] = costs.ends(first=False)[which]
        self.arcs = np.full((2**nodes, nodes + 1, nodes + 1, blocks + 1), inf)
        self.arcs[0, nodes, :nodes, 0] = self.hop[0, :nodes, nodes]

    def extend(self, mask: int, node: int) -> None:
        """Let the node do blocks after each way over a link from this set to it."""
        costs, after = self.costs, mask | 1 << node
        for extra in range(costs.band):
            starts = slice(0, costs.blocks - extra)
            segment = costs.segment[starts, node, extra]
            way = self.arcs[mask, :, node, starts] + segment
            stage = self.transfer[starts, node].T + segment
            out = self.transfer[extra + 1 :, :, node]
            within = stage[:, :, None] + out <= self.limit_s
            hop = self.hop[extra + 1 :, :, node]
            best = np.where(within, way[:, :, None] + hop, inf).min(axis=0).T
            target = self.arcs[after, node, :, extra + 1 :]
            np.minimum(target, best, out=target)

    def chain(self) -> Chain | None:
        """The best way back to the caller, or None."""
        nodes, stop = self.costs.nodes, self.costs.blocks
        ends = self.arcs[:, :nodes, nodes, stop]
        mask, node = (int(index) for index in np.unravel_index(ends.argmin(), ends.shape))
        if not np.isfinite(ends[mask, node]):
            return None
        shares: list[Share] = []
        following = nodes
        while mask:
            mask ^= 1 << node
            starts: Ints = np.arange(max(0, stop - self.costs.band), stop)
            segment = self.costs.segment[starts, node, stop - 1 - starts]
            stage = self.transfer[starts, node].T + segment
            out = self.transfer[stop, following, node]
            way = self.arcs[mask][:, node, starts] + segment
            way = np.where(stage + out <= self.limit_s, way, inf)
            sender, place = np.unravel_index(way.argmin(), way.shape)
            start = int(starts[place])
            shares.append(Share(int(self.costs.names[node]), start, stop))
            following, node, stop = node, int(sender), start
        return tuple(reversed(shares))
