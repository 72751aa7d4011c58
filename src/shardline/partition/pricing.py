"""Chains for latency: prices on nodes make walks that may repeat nodes into chains that do not.

Without "no node twice", the fastest way through (cut, node) is a plain shortest walk. Give each
node a price to be paid on every visit: for any prices, the cheapest walk less all prices is a lower
bound of every chain's latency (Lagrange; the best prices give the bound of the linear programme).
Prices rise on nodes that walks visit twice and fall on those they leave out (subgradient, Polyak's
step). Nodes through which every walk costs more than the best chain are dropped, as no better
chain uses them. Chains come from the same search with the nodes of each way remembered, so that it
uses none twice: a heuristic, as each place remembers its best way only. Ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from shardline.partition.problem import Share, evaluate

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from shardline.partition.costs import Costs

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Chain = tuple[Share, ...]

__all__ = ["Priced", "price", "threaded"]

ROUNDS = 30
"""Of prices for all nodes."""
INNER_ROUNDS = 60
"""Of prices for the nodes that matter, between two looks at all."""
BETTER_EVERY = 4
"""Rounds of prices for each local search, which takes as long as some rounds."""
MATTER = 96
"""Nodes for which prices are sought at once: those with the cheapest walks through them."""
PATIENCE = 4
"""Rounds without a better bound before the step is halved."""
CLOSE = 1e-6
KEPT = 0.9
"""Nodes are dropped when at least a tenth of them can be."""


@dataclass(frozen=True, slots=True)
class Priced:
    """The best chain, if any was found, and what no chain can beat."""

    chain: Chain | None
    bound_s: float


def price(  # noqa: PLR0913 - where it starts, and what ends it
    costs: Costs,
    over: Callable[[], bool],
    start: Chain | None = None,
    better: Callable[[Costs, Chain], Chain] | None = None,
    *,
    enough_s: float = inf,
    gain: float = 0.0,
) -> Priced:
    """The fastest chain found and a lower bound of the latency.

    `over` says when to stop, and so does a bound of `enough_s`, or a round that raises it by less
    than the share `gain`; `better` improves each chain found, among the nodes still of use.
    """
    best, best_s = start, evaluate(costs.problem, start).latency_s if start else inf
    bound_s, prices = 0.0, np.zeros(costs.nodes)
    if best is None and (best := threaded(costs, prices)):
        best = better(costs, best) if better else best
        best_s = evaluate(costs.problem, best).latency_s
    if best:
        prices = _first_prices(costs, best)
    for turn in range(ROUNDS):
        walk = _Walk(costs, prices)
        stalled = walk.bound_s < bound_s * (1 + gain) if gain else False
        bound_s = max(bound_s, walk.bound_s)
        if stalled:
            break
        through_s = walk.through_s()
        few = _matter(costs, prices, through_s, best)
        near = costs.among(few)
        found = threaded(near, prices[few]) or threaded(costs, prices)
        if found and better and turn % BETTER_EVERY == BETTER_EVERY - 1:
            found = better(near, found)
        if found and (found_s := evaluate(costs.problem, found).latency_s) < best_s:
            best, best_s = found, found_s
        if min(best_s, enough_s) <= bound_s * (1 + CLOSE) or over():
            break
        prices[few] = _priced(near, prices[few], best_s, over)
        kept = np.flatnonzero(through_s <= best_s * (1 + CLOSE))
        if len(kept) < costs.nodes * KEPT:
            # Dropped nodes are in no better chain, and cost nothing from here on.
            costs, prices = costs.among(kept), prices[kept]
    return Priced(best, min(bound_s, best_s))


def _first_prices(costs: Costs, chain: Chain) -> Floats:
    """What each node saves in this chain, or would, against the cheapest way to hold more blocks.

    At these prices all nodes outside are worth nothing, as at the best prices of a chain that no
    insertion improves.
    """
    place = {int(name): index for index, name in enumerate(costs.names)}
    nodes = [place[share.node] for share in chain]
    hop = costs.links(1)[1] if costs.blocks > 1 else np.full((costs.nodes, costs.nodes), inf)
    first, last = costs.ends(first=True)[1], costs.ends(first=False)[1]
    counts: Ints = np.arange(1, costs.band + 1)
    full = costs.segment.min(axis=0)
    slots = [first + hop[nodes[0]] - first[nodes[0]]]
    slots += [hop[:, one] + hop[two] - hop[two, one] for one, two in pairwise(nodes)]
    slots += [hop[:, nodes[-1]] + last - last[nodes[-1]]]
    detour = np.maximum(0, np.min(slots, axis=0))
    detour[nodes] = 0
    for index, node in enumerate(nodes):
        into = hop[node, nodes[index - 1]] if index else first[node]
        following = nodes[index + 1] if index + 1 < len(nodes) else None
        out = last[node] if following is None else hop[following, node]
        past = last[nodes[index - 1]] if following is None and index else 0.0
        if following is not None:
            past = hop[following, nodes[index - 1]] if index else first[following]
        detour[node] = max(0.0, into + out - past)
    outside = np.ones(costs.nodes, dtype=np.bool_)
    outside[nodes] = False
    each: Floats = (detour[:, None] + full) / counts
    rate = float(each[outside].min()) if outside.any() else float(each[nodes].min(axis=1).max())
    if not np.isfinite(rate):
        return np.zeros(costs.nodes)
    saved = np.where(np.isfinite(full), rate * counts - detour[:, None] - full, 0.0)
    return np.maximum(0.0, saved.max(axis=1))


def _matter(costs: Costs, prices: Floats, through_s: Floats, best: Chain | None) -> Ints:
    """The nodes worth a price: with one, in the best chain, or with the cheapest walks."""
    rank = through_s.copy()
    rank[np.isin(costs.names, [share.node for share in best or ()])] = -inf
    return np.sort(rank.argsort(kind="stable")[: MATTER + int((prices > 0).sum())])


def _priced(costs: Costs, prices: Floats, best_s: float, over: Callable[[], bool]) -> Floats:
    """Better prices for these nodes, by Polyak's steps towards the best chain's latency."""
    bound_s, kept, step, since = -inf, prices, 1.0, 0
    for _ in range(INNER_ROUNDS):
        walk = _Walk(costs, prices)
        since += 1
        if walk.bound_s > bound_s:
            bound_s, kept, since = walk.bound_s, prices, 0
        if since > PATIENCE:
            step, since, prices = step / 2, 0, kept
            continue
        slope = walk.visits() - 1
        slope[(prices <= 0) & (slope < 0)] = 0
        size = float((slope**2).sum())
        if size == 0 or over():
            break
        target_s = best_s if best_s < inf else 1.1 * walk.bound_s
        prices = np.maximum(0, prices + step * (target_s - walk.bound_s) / size * slope)
    return kept


class _Walk:
    """The cheapest walk from the caller through all blocks and back, nodes as often as it likes."""

    def __init__(self, costs: Costs, prices: Floats) -> None:
        self.costs, self.prices = costs, prices
        blocks, nodes = costs.blocks, costs.nodes
        self.entered = np.full((blocks, nodes), inf)
        self.sender = np.zeros((blocks, nodes), dtype=np.int64)
        self.done = np.full((blocks + 1, nodes), inf)
        self.opened = np.zeros((blocks + 1, nodes), dtype=np.int64)
        for cut in range(blocks):
            self._pass(cut)
        self.final = self.done[blocks] + costs.ends(first=False)[1]
        self.bound_s = float(self.final.min() - prices.sum())

    def _pass(self, cut: int) -> None:
        """Enter nodes at this cut, then let each do some blocks."""
        costs = self.costs
        if cut == 0:
            self.entered[0] = costs.ends(first=True)[1] + self.prices
        else:
            ways = costs.links(cut)[1] + self.done[cut]
            self.sender[cut] = ways.argmin(axis=1)
            self.entered[cut] = ways[np.arange(costs.nodes), self.sender[cut]] + self.prices
        last = min(costs.blocks, cut + costs.band)
        reached = (self.entered[cut][:, None] + costs.segment[cut, :, : last - cut]).T
        better = reached < self.done[cut + 1 : last + 1]
        self.done[cut + 1 : last + 1][better] = reached[better]
        self.opened[cut + 1 : last + 1][better] = cut

    def visits(self) -> Floats:
        """How often the walk enters each node."""
        counts = np.zeros(self.costs.nodes)
        cut, node = self.costs.blocks, int(self.final.argmin())
        while cut:
            counts[node] += 1
            cut = int(self.opened[cut, node])
            node = int(self.sender[cut, node])
        return counts

    def through_s(self) -> Floats:
        """For each node, the cost of the cheapest walk that visits it, less all prices."""
        costs = self.costs
        blocks, nodes = costs.blocks, costs.nodes
        ahead = np.full((blocks + 1, nodes), inf)
        ahead[blocks] = costs.ends(first=False)[1]
        through = np.full(nodes, inf)
        for cut in range(blocks - 1, -1, -1):
            last = min(blocks, cut + costs.band)
            on = (costs.segment[cut, :, : last - cut] + ahead[cut + 1 : last + 1].T).min(axis=1)
            np.minimum(through, self.entered[cut] + on, out=through)
            if cut:
                ways = costs.links(cut)[1] + (on + self.prices)[:, None]
                ahead[cut] = ways.min(axis=0)
        return through - self.prices.sum()


def threaded(
    costs: Costs, prices: Floats, limit_s: float = inf, blocked: Bools | None = None
) -> Chain | None:
    """A fast chain that uses no node twice: at each place only the best way is remembered.

    Its stages keep the limit, and it follows no link [to, from] that is blocked.
    """
    return _Thread(costs, prices, limit_s, blocked).chain()


class _Thread:
    """`_Walk` with the nodes of each way, and the stages' limit."""

    def __init__(self, costs: Costs, prices: Floats, limit_s: float, blocked: Bools | None) -> None:
        self.costs, self.prices, self.limit_s, self.blocked = costs, prices, limit_s, blocked
        blocks, nodes = costs.blocks, costs.nodes
        self.sender = np.zeros((blocks, nodes), dtype=np.int64)
        self.done = np.full((blocks + 1, nodes), inf)
        self.opened = np.zeros((blocks + 1, nodes), dtype=np.int64)
        self.stage = np.zeros((blocks + 1, nodes))
        self.used = np.zeros((blocks, nodes, nodes), dtype=np.bool_)
        self.least_out = costs.cheapest_links()[1] if limit_s < inf else np.zeros(nodes)
        for cut in range(blocks):
            self._pass(cut)

    def _pass(self, cut: int) -> None:
        costs, everyone = self.costs, np.arange(self.costs.nodes)
        if cut == 0:
            transfer, hop = costs.ends(first=True)
            entered, sent = hop + self.prices, transfer
            self.used[0] = np.eye(costs.nodes, dtype=np.bool_)
        else:
            transfer, hop = costs.links(cut)
            ways = hop + self.done[cut]
            behind = self.used[self.opened[cut], everyone]  # [from, visited]
            ways[behind.T] = inf
            if self.blocked is not None:
                ways[self.blocked] = inf
            if self.limit_s < inf:
                ways[self.stage[cut] + transfer > self.limit_s] = inf
            sender = ways.argmin(axis=1)
            self.sender[cut] = sender
            entered = ways[everyone, sender] + self.prices
            sent = transfer[everyone, sender]
            self.used[cut] = behind[sender]
            self.used[cut, everyone, everyone] = True
        last = min(costs.blocks, cut + costs.band)
        segment = costs.segment[cut, :, : last - cut]
        reached = (entered[:, None] + segment).T
        stage = (sent[:, None] + segment).T
        if self.limit_s < inf:
            reached[stage + self.least_out > self.limit_s] = inf
        rows = slice(cut + 1, last + 1)
        better = reached < self.done[rows]
        self.done[rows][better] = reached[better]
        self.opened[rows][better] = cut
        self.stage[rows][better] = stage[better]

    def chain(self) -> Chain | None:
        """The best way back to the caller."""
        costs = self.costs
        transfer, hop = costs.ends(first=False)
        final = self.done[costs.blocks] + hop
        final[self.stage[costs.blocks] + transfer > self.limit_s] = inf
        node, stop = int(final.argmin()), costs.blocks
        if not np.isfinite(final[node]):
            return None
        shares: list[Share] = []
        while stop:
            start = int(self.opened[stop, node])
            shares.append(Share(int(costs.names[node]), start, stop))
            node, stop = int(self.sender[start, node]), start
        return tuple(reversed(shares))
