"""What no chain can beat, whatever its order. Ours, as the paper's bounds are for equal machines.

`pricing` holds the bound for latency. Nothing here knows whether a bound can be reached.
"""

from __future__ import annotations

import importlib
from math import inf
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from shardline.partition.costs import listed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardline.partition.costs import Costs

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]

__all__ = ["assigned_bottleneck_s", "least_bottleneck_s", "least_stages", "within_limit"]

_assign = cast("Any", importlib.import_module("scipy.optimize")).linear_sum_assignment

SHARES = (1.0, 0.0, 0.5)
NONE = -1e6


def least_stages(costs: Costs) -> Floats:
    """The least stage of each node with 1, 2, ... blocks, [node, count - 1], by its best links."""
    into, out = costs.cheapest_links()
    return costs.least + (into + out)[:, None]


def least_bottleneck_s(costs: Costs) -> float:
    """A lower bound of the slowest stage.

    Within t, node i can hold only so many blocks, at its best links. The least t at which these
    numbers sum up to the model's blocks is the one at which the L-th of all `least_stages` fits.
    Where blocks differ, the same is asked of work in place of numbers; a bound too is that each
    block, and each end of the chain, must be on some node.
    """
    stages = least_stages(costs)
    counted = float(np.partition(stages.ravel(), costs.blocks - 1)[costs.blocks - 1])
    into, out = costs.cheapest_links()
    single = costs.starts[:, :, 0] + (into + out)
    hardest = float(single.min(axis=1).max())
    if costs.blocks > 1:
        first = costs.starts[0, :, 0] + costs.ends(first=True)[0] + out
        last = costs.starts[-1, :, 0] + costs.ends(first=False)[0] + into
    else:
        both = costs.ends(first=True)[0] + costs.ends(first=False)[0]
        first = last = costs.starts[0, :, 0] + both
    return max(counted, hardest, float(first.min()), float(last.min()), _by_work_s(costs))


def _by_work_s(costs: Costs) -> float:
    """The least t in which the nodes' speeds, less their best links, can do all the work."""
    problem = costs.problem
    into, out = costs.cheapest_links()
    nodes = [problem.nodes[index] for index in listed(costs.names)]
    speed = np.array([node.speed for node in nodes])
    idle = into + out + np.array([node.overhead_s for node in nodes])
    order = np.argsort(idle)
    speed, idle = speed[order], idle[order]
    work = sum(block.work_s for block in problem.blocks)
    # With the first k nodes at work: sum of speed * (t - idle) = work. The least t is the bound.
    usable = np.isfinite(idle)
    if not usable.any():
        return inf
    totals = np.cumsum(speed[usable])
    return float(((work + np.cumsum(speed[usable] * idle[usable])) / totals).min())


def within_limit(costs: Costs, limit_s: float, share: float) -> bool:
    """Whether an assignment of successors could give room for all blocks; False is a proof.

    A chain gives every used node one link in and one out. At a limit, a node's room with the links
    a and b is at most `share` of its room with a and its best way out, plus the rest of its room
    with its best way in and b. So the best assignment of successors (a node may be its own: it is
    unused) has at least the room of any chain.
    """
    into, out = costs.cheapest_links()
    segment = costs.least
    useful = np.flatnonzero(segment[:, 0] + into + out <= limit_s)
    count = len(useful)
    if not count:
        return False
    segment, into, out = segment[useful], into[useful], out[useful]
    link = np.full((count + 1, count + 1), inf)  # [to, from], the caller last
    for cut in costs.distinct_cuts():
        inner = costs.links(cut)[0][np.ix_(useful, useful)]
        link[:count, :count] = np.minimum(link[:count, :count], inner)
    link[:count, count] = costs.ends(first=True)[0][useful]
    link[count, :count] = costs.ends(first=False)[0][useful]
    entering, leaving = np.zeros_like(link), np.zeros_like(link)
    there = np.where(np.isinf(link), 2 * limit_s, link)
    for node, times in enumerate(segment):
        entering[node] = times.searchsorted(limit_s - out[node] - there[node], side="right")
        leaving[:, node] = times.searchsorted(limit_s - into[node] - there[:, node], side="right")
    good = np.isfinite(link)
    good[:count] &= entering[:count] >= 1
    good[:, :count] &= leaving[:, :count] >= 1
    # Only nodes that can be reached from the caller, and reach it, over links within the limit.
    around = _reached(good) & _reached(good.T)
    if around.sum() == 1:
        return False
    good &= around[:, None] & around
    room = np.where(good, share * entering + (1 - share) * leaving, NONE)
    np.fill_diagonal(room, 0)
    room[count, count] = NONE
    rows, columns = _assign(room, maximize=True)
    return float(room[rows, columns].sum()) >= costs.blocks - 1e-6


def _reached(good: Bools) -> Bools:
    """What the last can reach over these links, [to, from]."""
    around = np.zeros(len(good), dtype=np.bool_)
    around[-1] = True
    while True:
        more: Bools = around | good[:, around].any(axis=1)
        if more.sum() == around.sum():
            return around
        around = more


def assigned_bottleneck_s(costs: Costs, upper_s: float) -> float:
    """A lower bound of the slowest stage by assignments, never above a known chain's `upper_s`."""
    lower_s = min(least_bottleneck_s(costs), upper_s)
    for share in SHARES:
        tried_s = upper_s
        while tried_s - lower_s > 1e-3 * lower_s:
            limit_s = (lower_s + tried_s) / 2
            if within_limit(costs, limit_s, share):
                tried_s = limit_s
            else:
                lower_s = limit_s
    return lower_s
