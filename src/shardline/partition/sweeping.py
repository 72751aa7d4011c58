"""The cheapest route through each node, where a second of every node has its price.

A shortest path over (cut, node), swept from the caller forwards and backwards; the two meet in each
use. Routes through every node at once are what makes `carrying` end after some dozen rounds.
"""

from __future__ import annotations

from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shardline.partition.problem import Share

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from shardline.core.spans import Span
    from shardline.partition.costs import Costs

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]
    Shares = tuple[Share, ...]

__all__ = ["Uses", "cheapest"]


class Uses:
    """What blocks a node may be used for, and how long each use takes it without its links."""

    def __init__(self, costs: Costs, held: Mapping[int, Span], *, others: bool) -> None:
        """Those in `held` are used for parts of their spans; `others` for all they can, or none."""
        self.costs = costs
        segment = costs.segment
        if held or not others:
            segment = segment.copy() if others else np.full_like(segment, inf)
            for node, span in held.items():
                segment[:, node] = _within(costs, node, span)
        self.possible = np.isfinite(segment)
        self.seconds: Floats = np.where(self.possible, segment, 0.0)
        self.barred: Floats = np.where(self.possible, 0.0, inf)
        self.begun, self.ended = self._cuts()

    def _cuts(self) -> tuple[list[Ints], list[Ints]]:
        """For each cut the nodes of which a use begins there, and those of which one ends."""
        blocks = self.costs.blocks
        begun: Bools = np.asarray(self.possible.any(axis=2), dtype=np.bool_)
        ended: Bools = np.zeros((blocks + 1, self.costs.nodes), dtype=np.bool_)
        for length in range(1, min(self.costs.band, blocks) + 1):
            ended[length:] |= self.possible[: blocks - length + 1, :, length - 1]
        return (
            [np.flatnonzero(begun[cut]) for cut in range(blocks)],
            [np.flatnonzero(ended[cut]) for cut in range(blocks + 1)],
        )

    def allow(self, shares: Iterable[Share]) -> bool:
        """Whether each of these is possible."""
        return all(
            share.stop - share.start <= self.costs.band
            and self.possible[share.start, share.node, share.stop - share.start - 1]
            for share in shares
        )

    def times(self, shares: Shares) -> Floats:
        """Seconds of each node that a token on this route takes."""
        costs = self.costs
        found = np.zeros(costs.nodes)
        for share in shares:
            found[share.node] += self.seconds[share.start, share.node, share.stop - share.start - 1]
        for one, other in pairwise(shares):
            moved_s = costs.links(one.stop)[0][other.node, one.node]
            found[one.node] += moved_s
            found[other.node] += moved_s
        found[shares[0].node] += costs.ends(first=True)[0][shares[0].node]
        found[shares[-1].node] += costs.ends(first=False)[0][shares[-1].node]
        return found


def _within(costs: Costs, node: int, span: Span) -> Floats:
    """This node's column of `Costs.segment` within a span, overflow being that of all of it."""
    found = np.full((costs.blocks, costs.band), inf)
    problem = costs.problem
    over_s = problem.compute_s(Share(node, span.start, span.stop))[1]
    for start in range(span.start, span.stop):
        count = min(span.stop - start, costs.band)
        found[start, :count] = costs.segment[start, node, :count]
        if over_s:
            for more in range(count):
                share = Share(node, start, start + more + 1)
                found[start, more] = problem.compute_s(share)[0] + over_s
    return found


class _Sweep(NamedTuple):
    """For each block and node the cost of being about to do it there, and how one comes there."""

    entered: Floats
    came: Ints
    start: Ints
    """At [stop, node], where the use that ends there began."""


def cheapest(uses: Uses, prices: Floats) -> list[tuple[float, Shares]]:
    """For each node the cheapest route that uses it, with its cost; the cheapest of all first."""
    costs = uses.costs
    blocks, count, band = costs.blocks, costs.nodes, costs.band
    priced = uses.seconds * prices[:, None] + uses.barred
    pairs = prices[:, None] + prices
    links = {cut: _at_price(costs.links(cut)[0], pairs) for cut in costs.distinct_cuts()}
    of_size = {costs.problem.cut_bytes(cut): link for cut, link in links.items()}
    ways = [of_size[costs.problem.cut_bytes(cut)] for cut in range(1, blocks)]
    to, back = (_at_price(costs.ends(first=first)[0], prices) for first in (True, False))
    there = _sweep(to, ways, priced, uses.begun, uses.ended)
    # The same from the end: what is [a, b) is [L - b, L - a) then, and links lead the other way.
    turned = np.full_like(priced, inf)
    for length in range(1, band + 1):
        last = blocks - length + 1
        turned[:last, :, length - 1] = priced[:last, :, length - 1][::-1]
    away = _sweep(
        back, [way.T for way in reversed(ways)], turned, uses.ended[::-1], uses.begun[::-1]
    )
    left = np.full((blocks + band + 1, count), inf)
    left[1 : blocks + 1] = away.entered[::-1]
    through = priced + there.entered[:, :, None]
    for length in range(1, band + 1):
        through[:, :, length - 1] += left[length : length + blocks]
    table = through.transpose(1, 0, 2).reshape(count, -1)
    at: Ints = table.argmin(axis=1)
    cost = table[np.arange(count), at]
    found: list[tuple[float, Shares]] = []
    for node in np.argsort(cost, kind="stable").tolist():
        if cost[node] == inf:
            break
        start, length = divmod(int(at[node]), band)
        found.append(
            (float(cost[node]), _route(there, away, Share(node, start, start + length + 1)))
        )
    return found


def _sweep(
    first: Floats,
    ways: Sequence[Floats],
    priced: Floats,
    begun: Sequence[Ints],
    ended: Sequence[Ints],
) -> _Sweep:
    """`ways[cut - 1]` are links at their price, [to, from]; only nodes that count are looked at."""
    blocks, count, band = priced.shape
    done = np.full((blocks + 1, count), inf)
    start = np.zeros((blocks + 1, count), dtype=np.int64)
    entered = np.full((blocks, count), inf)
    came = np.zeros((blocks, count), dtype=np.int64)
    entered[0] = first
    for block in range(blocks):
        to, by = begun[block], ended[block]
        if block and len(to) and len(by):
            way = ways[block - 1]
            whole = len(to) == len(by) == count
            sums = (way if whole else way[to[:, None], by]) + done[block, by]
            best = sums.argmin(axis=1)
            entered[block, to] = sums[np.arange(len(to)), best]
            came[block, to] = by[best]
        reach = min(band, blocks - block)
        reached = (entered[block] + priced[block, :, :reach].T)[:, to]
        rows = slice(block + 1, block + 1 + reach)
        better = reached < done[rows, to]
        done[rows, to] = np.where(better, reached, done[rows, to])
        start[rows, to] = np.where(better, block, start[rows, to])
    return _Sweep(entered, came, start)


def _at_price(seconds: Floats, prices: Floats) -> Floats:
    missing = np.isinf(seconds)
    return np.where(missing, inf, np.where(missing, 0.0, seconds) * prices)


def _route(there: _Sweep, away: _Sweep, middle: Share) -> Shares:
    """The cheapest way to this use, and on from it."""
    blocks = len(there.entered)
    before = _steps(there, middle.node, middle.start)
    behind = _steps(away, middle.node, blocks - middle.stop)
    after = (Share(one.node, blocks - one.stop, blocks - one.start) for one in behind)
    return (*reversed(before), middle, *after)


def _steps(sweep: _Sweep, node: int, cut: int) -> list[Share]:
    found: list[Share] = []
    while cut:
        node = int(sweep.came[cut, node])
        begin = int(sweep.start[cut, node])
        found.append(Share(node, begin, cut))
        cut = begin
    return found
