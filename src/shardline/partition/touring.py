"""Networks in groups: a bound that pays for every group of nodes once, and not by the share.

`pricing`'s bound is that of a linear programme, which mixes walks: a tenth of a walk through a far
region costs a tenth of the way there, and rests the near nodes all the same. On six regions in a
ring it is 15% short. So groups of near nodes are found, and each link between two groups is split
into the least delay between them and the rest. A chain that visits just the groups S pays the
shortest tour through S, by the least delays, and what pricing gives for the nodes of S over the
rest of the links. Which groups are visited is settled by branch and bound. Ours.
"""

from __future__ import annotations

import heapq
import importlib
from dataclasses import replace
from itertools import combinations
from math import inf
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from shardline.partition.costs import Costs, listed
from shardline.partition.pricing import Priced, price
from shardline.partition.problem import evaluate

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from shardline.partition.problem import Share

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Chain = tuple[Share, ...]
    Set = frozenset[int]
    Over = Callable[[], bool]

__all__ = ["groups", "toured"]

_hierarchy = cast("Any", importlib.import_module("scipy.cluster.hierarchy"))
_squareform = cast("Any", importlib.import_module("scipy.spatial.distance")).squareform

GROUPS_MAX = 7
APART = 3.0
"""Groups are this many times as far from each other as their nodes from their nearest ones."""
PLAIN = 0.4
"""Part of the time for chains and a bound without groups."""
PRICED = 0.5
"""Part of the remaining time for each set of groups that is priced."""
GAIN = 0.005
"""By so much a round of prices has to raise the bound while it is open which groups are visited."""
CLOSE = 1e-4


def groups(delay_s: Floats) -> Ints:
    """The group of each place, by the clearest step in single linkage; all 0 if there is none."""
    count = len(delay_s)
    alone: Ints = np.zeros(count, dtype=np.int64)
    both = np.minimum(delay_s, delay_s.T)
    finite = both[np.isfinite(both)]
    if count <= GROUPS_MAX or not len(finite):
        return alone
    both = np.where(np.isfinite(both), both, 2 * finite.max())
    np.fill_diagonal(both, 0.0)
    tree = _hierarchy.linkage(_squareform(both, checks=False), "single")
    last = np.maximum(tree[-GROUPS_MAX:, 2], 1e-9)
    steps = last[1:] / last[:-1]
    at = int(steps.argmax())
    if steps[at] < APART:
        return alone
    found: Ints = _hierarchy.fcluster(tree, len(last) - at, "maxclust")
    return found.astype(np.int64) - 1


def toured(
    costs: Costs,
    over_at: Callable[[float], Over],
    until: float = 1.0,
    start: Chain | None = None,
    better: Callable[[Costs, Chain], Chain] | None = None,
) -> Priced:
    """`price` until this part of the budget; where nodes stand in groups, a better bound."""
    problem = costs.problem
    group = groups(problem.delay_s[:-1, :-1])
    if not group.any():
        return price(costs, over_at(until), start, better)
    first = price(costs, over_at(PLAIN * until), start, better)
    return _Tours(costs, group, first).narrowed(over_at, until) if first.chain else first


class _Tours:
    """The sets of groups that a better chain could visit, least bound first."""

    def __init__(self, costs: Costs, group: Ints, known: Priced) -> None:
        self.costs, self.group = costs, group
        problem = costs.problem
        self.size = int(group.max()) + 1
        self.least = _least(problem.delay_s, np.append(group, self.size))
        side = np.append(group, self.size)
        rest = problem.delay_s - self.least[side[:, None], side]
        self.rest = Costs(replace(problem, delay_s=np.where(np.isfinite(rest), rest, inf)))
        self.tours = _tours(self.least)
        self.chain, self.plain_s = known.chain, known.bound_s
        self.best_s = evaluate(problem, known.chain).latency_s if known.chain else inf
        self.room = costs.capacities()
        self.settled: set[Set] = set()
        self.within: dict[Set, float] = {}
        """What pricing gave for the nodes of these groups, over the rest of the links."""

    def narrowed(self, over_at: Callable[[float], Over], until: float) -> Priced:
        """Branch and bound; stopped early, the bound is that of what is still open."""
        part, turn = PLAIN * until, 0
        everything = frozenset(range(self.size))
        nothing: Set = frozenset()
        queue = [(self._tour_s(nothing, everything), turn, nothing, everything, 0.0)]
        while queue and queue[0][0] < self.best_s * (1 - CLOSE):
            if over_at(until)():
                break
            _, _, must, may, rest_s = heapq.heappop(queue)
            ways = [(must, may)]
            if may in self.within and (must != may or may in self.settled):
                rest_s = self.within[may]
                ways = self._branches(must, may)
                if not ways:  # as good as prices are
                    heapq.heappush(queue, (self._tour_s(must, may) + rest_s, 0, must, may, rest_s))
                    break
            elif smaller := self._shrunk(must, may, rest_s):
                ways = [(must, smaller)]
            else:
                part += PRICED * (until - part)
                rest_s = self._price(must, may, rest_s, over_at(part))
            for must_now, may_now in ways:
                turn += 1
                least_s = self._tour_s(must_now, may_now) + rest_s
                heapq.heappush(queue, (least_s, turn, must_now, may_now, rest_s))
        bound_s = min(self.best_s, queue[0][0] if queue else inf)
        return Priced(self.chain, max(self.plain_s, bound_s))

    def _tour_s(self, must: Set, may: Set) -> float:
        """The least tour through all of `must` and any more of `may`, of one group at least."""
        return min(
            (way_s for some, way_s in self.tours.items() if must <= some <= may), default=inf
        )

    def _shrunk(self, must: Set, may: Set, rest_s: float) -> Set | None:
        """`may` without the groups that no better chain can visit, if there are such."""
        enough_s = self.best_s * (1 - CLOSE) - rest_s
        kept = {one for one in may if one in must or self._tour_s(must | {one}, may) < enough_s}
        return frozenset(kept) if len(kept) < len(may) else None

    def _branches(self, must: Set, may: Set) -> list[tuple[Set, Set]]:
        """With and without the group that costs most to visit."""
        open_ = sorted(may - must)
        if not open_:
            return []
        far = max(open_, key=lambda one: self._tour_s(must | {one}, may))
        return [(must | {far}, may), (must, may - {far})]

    def _price(self, must: Set, may: Set, rest_s: float, over: Over) -> float:
        """What chains among these groups' nodes cost at least, tours apart."""
        few = np.flatnonzero(np.isin(self.group, list(may)))
        if self.room[few].sum() < self.costs.blocks:
            self.within[may] = inf
            return inf
        start = self.chain
        if start and not {share.node for share in start} <= set(listed(few)):
            start = None
        enough_s = self.best_s - self._tour_s(must, may)
        gain = 0.0 if must == may else GAIN
        found = price(self.rest.among(few), over, start, enough_s=enough_s, gain=gain)
        if found.chain:
            latency_s = evaluate(self.costs.problem, found.chain).latency_s
            if latency_s < self.best_s:
                self.chain, self.best_s = found.chain, latency_s
        self.within[may] = max(rest_s, found.bound_s)
        if must == may:
            self.settled.add(may)
        return self.within[may]


def _least(delay_s: Floats, group: Ints) -> Floats:
    """The least delay between two groups, [from, to]; 0 within one, and where there is no way."""
    size = int(group.max()) + 1
    least = np.zeros((size, size))
    for one in range(size):
        for other in range(size):
            if one != other:
                between = float(delay_s[np.ix_(group == one, group == other)].min())
                least[one, other] = between if between < inf else 0.0
    return least


def _tours(least: Floats) -> dict[Set, float]:
    """For each set of groups, the shortest way from the caller, the last one, through all of it.

    Held and Karp; ways pass through a group as often as they like, but stay within the set.
    """
    size = len(least) - 1
    found: dict[Set, float] = {}
    for count in range(1, size + 1):
        for some in combinations(range(size), count):
            found[frozenset(some)] = _tour_s(least, [*some, size])
    return found


def _tour_s(least: Floats, places: list[int]) -> float:
    """The shortest closed way from the last of these places through all of them."""
    near = least[np.ix_(places, places)].copy()
    for middle in range(len(places)):
        near = np.minimum(near, near[:, middle, None] + near[middle])
    inner = range(len(places) - 1)
    ways = {(1 << place, place): near[-1, place] for place in inner}
    for _ in range(len(places) - 2):
        longer: dict[tuple[int, int], float] = {}
        for (seen, at), way_s in ways.items():
            for to in inner:
                if not seen >> to & 1:
                    key = (seen | 1 << to, to)
                    longer[key] = min(longer.get(key, inf), way_s + near[at, to])
        ways = longer
    return float(min(way_s + near[at, -1] for (_, at), way_s in ways.items()))
