"""How a scheme becomes a plan: roles from a plan, nodes for roles, and repair to this problem.

A role says in seven numbers what a stage's node is like among the nodes of its swarm: speed,
memory, links in and out, distance from the others and from the caller, and the link by which the
chain enters it. Each is x / (x + m) for x and the median m, 0.5 for what is usual: what all nodes
have alike tells none apart, and no unit or size remains. Blocks' shares are not kept, as for a
given order they are found exactly.

A scheme is laid by giving each role, in the chain's order, the free node that is most like it. The
chain is then repaired: for throughput it grows at the limit that the scheme's state lets a plan
reach, for latency the fastest way among its nodes and the most promising others is taken.
"""

from __future__ import annotations

from itertools import pairwise
from math import inf, sqrt
from typing import TYPE_CHECKING

import numpy as np

from shardline.partition.bounds import least_bottleneck_s, least_stages
from shardline.partition.polishing import ordered, polish
from shardline.partition.pricing import threaded
from shardline.partition.problem import evaluate
from shardline.partition.schemes import some_ends
from shardline.partition.schemes_growing import grown_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shardline.partition.costs import Costs
    from shardline.partition.problem import Problem, Share
    from shardline.partition.schemes import Laid, Scheme

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]
    Ints = NDArray[np.int64]
    Chain = tuple[Share, ...]

__all__ = ["Swarm", "lay_fast", "lay_wide", "quick_bound_s"]

LIKENESS = np.array([3.0, 1.0, 1.0, 1.0, 1.0, 0.3])
"""What each number of a role counts in choosing a node; the entering link counts HOP."""
HOP = 3.0
ENDS_MAX = 64
"""So many stand for all others in a node's role."""
NEAR = 32
"""Nodes looked at beside the laid ones; for throughput, beyond those with room for the model."""
ROOMS = 1.1
"""For latency, more nodes are looked at until they have room for so many models."""
WIDER = 1.1
TRIES, TRIES_MIN = 60, 2
"""At each limit, for all nodes together: small swarms are tried more often."""


class Swarm:
    """Roles of a problem's nodes."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        size = sum(block.output_bytes for block in problem.blocks) / len(problem.blocks)
        with np.errstate(divide="ignore"):
            self._sent_s: Floats = size / problem.bytes_per_s
        count, some = len(problem.nodes), some_ends(problem, ENDS_MAX)
        nodes = np.arange(count)
        delay_s, into_s = self._way_s(some, nodes)
        back_s, out_s = self._way_s(nodes, some)
        own = [
            np.array([node.speed for node in problem.nodes]),
            np.array([float(node.memory_bytes) for node in problem.nodes]),
            np.median(into_s, axis=0),
            np.median(out_s, axis=1),
            np.median(delay_s.T + back_s, axis=1),
            problem.delay_s[count, :count] + problem.delay_s[:count, count],
        ]
        self.roles: Floats = np.stack([_usual(each, _median(each)) for each in own], axis=1)
        self._hop_s = _median(delay_s + into_s)

    def _way_s(self, senders: Ints, receivers: Ints) -> tuple[Floats, Floats]:
        """Delay and transfer of one step's output, [from, to]."""
        ways = np.ix_(senders, receivers)
        return self.problem.delay_s[ways], self._sent_s[ways]

    def _hops(self, sender: int) -> Floats:
        """Of the links from here to all nodes."""
        return _usual((self.problem.delay_s[sender] + self._sent_s[sender])[:-1], self._hop_s)

    def of(self, chain: Sequence[int]) -> tuple[tuple[float, ...], ...]:
        """The roles of these nodes, in this order."""
        caller = len(self.roles)
        found: list[tuple[float, ...]] = []
        for before, node in pairwise([caller, *chain]):
            numbers: list[float] = [*self.roles[node].tolist(), float(self._hops(before)[node])]
            found.append(tuple(round(number, 2) for number in numbers))
        return tuple(found)

    def cast(self, roles: Sequence[tuple[float, ...]], able: Bools) -> list[int]:
        """For each role the free node most like it, as long as any that is able is left."""
        last = len(self.roles)
        taken = np.where(able, 0.0, inf)
        chain: list[int] = []
        table: Floats = np.array(roles)[: able.sum()]
        apart = np.abs(self.roles[:, None] - table[:, :-1]) @ LIKENESS  # [node, role]
        for role, unlike in zip(table, apart.T, strict=True):
            far = HOP * np.abs(self._hops(last) - role[-1]) + taken
            last = int((unlike + far).argmin())
            taken[last] = inf
            chain.append(last)
        return chain


def _median(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    return max(float(np.median(finite)), 1e-12) if finite.size else 1.0


def _usual(values: Floats, median: float) -> Floats:
    """x / (x + median), in [0, 1]."""
    return 1 - median / (values + median)


def quick_bound_s(costs: Costs, weight: float) -> float:
    """A lower bound of the objective, at once; `bounds` and `pricing` know better ones.

    For latency: each block costs at least its node's best mean, entered by the nearest way; nodes
    have room for so many, and the cheapest are filled first.
    """
    slowest_s = least_bottleneck_s(costs) if weight else 0.0
    if weight == 1:
        return slowest_s
    mean_s = costs.block_s
    cheapest = mean_s.argsort(kind="stable")
    filled = np.diff(np.minimum(costs.capacities()[cheapest].cumsum(), costs.blocks), prepend=0)
    used = cheapest[filled > 0]
    way_s = float(mean_s[used] @ filled[filled > 0] + costs.ends(first=False)[1].min())
    return weight * slowest_s + (1 - weight) * way_s


def lay_wide(costs: Costs, scheme: Scheme, swarm: Swarm, rng: np.random.Generator) -> Chain | None:
    """The scheme's chain for throughput on all nodes of a problem; None if none is found."""
    bound_s = least_bottleneck_s(costs)
    if bound_s == inf:
        return None
    chain = swarm.cast(_resampled(scheme, scheme.throughput, costs), costs.capacities() > 0)
    stages = least_stages(costs)
    limit_s = bound_s * scheme.throughput.ratio
    rooms = (stages <= limit_s * WIDER).sum(axis=1)
    rooms[chain] += costs.blocks  # the laid ones come first
    most = np.lexsort((stages[:, 0], -rooms))
    count = len(chain) + np.searchsorted(rooms[most][len(chain) :].cumsum(), costs.blocks)
    tries = max(TRIES_MIN, TRIES // costs.nodes)
    near, order = _among(costs, most[: count + NEAR], chain)
    return grown_at(near, order, (bound_s, limit_s), tries, rng)


def lay_fast(costs: Costs, scheme: Scheme, swarm: Swarm, rng: np.random.Generator) -> Chain | None:
    """The scheme's chain for latency on all nodes of a problem; None if none is found."""
    rooms = costs.capacities()
    chain = swarm.cast(_resampled(scheme, scheme.latency, costs), rooms > 0)
    around_s = costs.ends(first=True)[1] + costs.ends(first=False)[1]
    few = np.array(chain, dtype=np.int64)
    for rank in (costs.block_s, around_s + costs.least.min(axis=1)):
        order = rank.argsort(kind="stable")
        enough = 1 + int(np.searchsorted(rooms[order].cumsum(), ROOMS * costs.blocks))
        few = np.union1d(few, order[: max(NEAR // 2, enough)])
    near, order = _among(costs, few, chain)
    place = {int(name): index for index, name in enumerate(near.names)}
    laid, way = ordered(near, order) if order else None, threaded(near, np.zeros(near.nodes))
    both = [one for one in (laid, way) if one]
    if not both:
        return threaded(costs, np.zeros(costs.nodes))  # takes longer
    best = min(both, key=lambda one: evaluate(costs.problem, one).latency_s)
    order = polish(near, [place[share.node] for share in best], 0, rng, lambda: False)
    better = ordered(near, order)
    return min([*both, better or best], key=lambda one: evaluate(costs.problem, one).latency_s)


def _among(
    costs: Costs, few: Ints, chain: list[int], band: int | None = None
) -> tuple[Costs, list[int]]:
    few = np.sort(few)
    return costs.among(few, band), np.searchsorted(few, chain).tolist()


def _resampled(scheme: Scheme, laid: Laid, costs: Costs) -> list[tuple[float, ...]]:
    """As many roles as this problem asks for: between those for its nodes and for its blocks."""
    own = len(laid.roles)
    by_nodes, by_blocks = costs.nodes / (scheme.state.nodes - 1), costs.blocks / scheme.blocks
    wanted = max(1, min(round(own * sqrt(by_nodes * by_blocks)), costs.nodes, costs.blocks))
    return [laid.roles[(2 * at + 1) * own // (2 * wanted)] for at in range(wanted)]
