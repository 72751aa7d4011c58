"""Nodes that hold the same blocks share the sessions: what such a swarm carries, and its judge.

Each node holds one span. A session takes a route: uses of nodes, parts of their spans, that cover
all blocks in order. A use costs its node what a stage of those blocks costs it: transfer in, work
with overhead, transfer out, and the overflow of all that it holds, since others need the rest. What
a swarm carries is the rates of all its routes together, where no node is busy more than all the
time. Over a chain alone that is one token in each bottleneck.

As in a session of ours, a route may come back to a node later on; each use counts. The caller is
never busy: it stands for many.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shardline.core.spans import Span
from shardline.partition.problem import Share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from shardline.partition.problem import Problem

    Floats = NDArray[np.float64]

__all__ = ["Carried", "Route", "carried", "hulls", "levelled"]


class Route(NamedTuple):
    """A way through all blocks, and how many tokens a second take it."""

    tokens_per_s: float
    shares: tuple[Share, ...]


class Carried(NamedTuple):
    """What routes ask of the nodes; an entry a node of the problem."""

    tokens_per_s: float
    busy: Floats
    """The part of each second; a plan keeps it to 1."""
    passing: Floats
    """Tokens a second, once for each use."""
    latency_s: float
    """One step's way on the quickest of the routes."""


def carried(problem: Problem, held: Mapping[int, Span], routes: Sequence[Route]) -> Carried:
    """Every figure of shared spans, from the problem's own numbers; inf where it cannot be.

    Raises ValueError for a route that does not cover all blocks in order, goes from a node to
    itself, or uses blocks that its node does not hold.
    """
    busy, passing = np.zeros(len(problem.nodes)), np.zeros(len(problem.nodes))
    latencies_s: list[float] = []
    over_s = {
        node: problem.compute_s(Share(node, span.start, span.stop))[1]
        for node, span in held.items()
    }
    for route in routes:
        _check(problem, held, route)
        times, latency_s = _walked(problem, over_s, route.shares)
        latencies_s.append(latency_s)
        for share, time_s in zip(route.shares, times, strict=True):
            busy[share.node] += route.tokens_per_s * time_s
            passing[share.node] += route.tokens_per_s
    total = sum(route.tokens_per_s for route in routes)
    return Carried(total, busy, passing, min(latencies_s, default=np.inf))


def _check(problem: Problem, held: Mapping[int, Span], route: Route) -> None:
    cuts = [0, *(share.stop for share in route.shares)]
    if cuts != [*(share.start for share in route.shares), len(problem.blocks)]:
        raise ValueError(f"{route} does not cover 0:{len(problem.blocks)} in order")
    if route.tokens_per_s < 0 or any(share.start >= share.stop for share in route.shares):
        raise ValueError(f"{route} goes backwards")
    if any(one.node == other.node for one, other in pairwise(route.shares)):
        raise ValueError(f"{route} goes from a node to itself")
    for share in route.shares:
        span = held.get(share.node)
        if span is None or not span.start <= share.start < share.stop <= span.stop:
            raise ValueError(f"{route} uses {share}, and that node holds {span}")


def _walked(
    problem: Problem, over_s: Mapping[int, float], shares: Sequence[Share]
) -> tuple[list[float], float]:
    """The time of each use, and of one step's whole way."""
    caller = len(problem.nodes)
    ends = list(pairwise([caller, *(share.node for share in shares), caller]))
    cuts = [*(share.start for share in shares), len(problem.blocks)]
    moved = [problem.transfer_s(cut, *link) for cut, link in zip(cuts, ends, strict=True)]
    own = [problem.compute_s(share)[0] + over_s[share.node] for share in shares]
    times = [moved[at] + own[at] + moved[at + 1] for at in range(len(shares))]
    delay_s = sum(float(problem.delay_s[link]) for link in ends)
    return times, delay_s + sum(moved) + sum(own)


def hulls(routes: Sequence[Route]) -> dict[int, Span]:
    """The least that each node must hold for these routes."""
    found: dict[int, Span] = {}
    for route in routes:
        for share in route.shares:
            span = found.get(share.node, Span(share.start, share.stop))
            found[share.node] = Span(min(span.start, share.start), max(span.stop, share.stop))
    return found


def levelled(
    problem: Problem, held: Mapping[int, Span], routes: Sequence[Route]
) -> tuple[Route, ...]:
    """The same routes at rates which keep the busiest node busy all the time, and no more."""
    most = float(carried(problem, held, routes).busy.max())
    return tuple(Route(route.tokens_per_s / most, route.shares) for route in routes)
