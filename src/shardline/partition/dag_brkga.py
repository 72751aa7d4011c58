"""BRKGA with the SliceGraph decoder (PAPER section 2) on graphs of ops and unequal nodes.

A chromosome holds a key for each op, by which Kahn's algorithm orders them, as the paper has it.
Ours: a key for each node, which orders the nodes that the parts go to; one for the limit on parts
where latency counts; seeds; and a local search of the best placing under its real links.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import numpy as np

from shardline.partition.brkga import LOOSEST, bred
from shardline.partition.dag import evaluate_graph, stage_order
from shardline.partition.dag_polishing import polished
from shardline.partition.slicing import Machines, Parts, cut, kahn, rank

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from shardline.partition.dag import GraphProblem

    Floats = NDArray[np.float64]
    Placing = tuple[int, ...]

__all__ = ["by_order", "evolve_graph"]

LIMITS = (8.0, 2.0, 1.2)
"""Times the least possible slowest stage: limits tried on a given order for a mix."""


def by_order(
    graph: GraphProblem, weight: float, bound_s: float, over: Callable[[], bool]
) -> list[Placing]:
    """The best cuts of a few orders of ops, nodes by speed and by memory; at least one is tried."""
    problem = graph.problem
    speed = np.array([node.speed for node in problem.nodes])
    room = np.array([node.memory_bytes for node in problem.nodes], dtype=np.float64)
    limits = [inf, *(bound_s * loose for loose in LIMITS)] if 0 < weight < 1 else [inf]
    found: list[Placing] = []
    for keys in _orders(graph):
        order = kahn(graph, keys)
        parts = Parts.of(graph, order)
        for nodes in (rank(-speed), rank(-room)):
            if found and over():
                return found
            # Once with what is usual on all links, once with what is on those of the nodes chosen.
            machines = Machines(graph)
            for limit_s in limits:
                placing = cut(order, parts, machines, nodes, weight=weight, limit_s=limit_s)
                again = placing and cut(
                    order,
                    parts,
                    Machines(graph, sorted(set(placing))),
                    nodes,
                    weight=weight,
                    limit_s=limit_s,
                )
                found += [one for one in (placing, again) if one]
    return found


def _orders(graph: GraphProblem) -> list[list[float]]:
    """Keys of orders: as listed; by depth, so in breadth; deep first, by the latest producer."""
    count = len(graph.readers)
    level, latest = [0.0] * count, [0.0] * count
    for op, producers in enumerate(graph.producers):
        level[op] = 1 + max((level[one] for one in producers), default=0)
        latest[op] = -max(producers, default=0)
    return [list(map(float, range(count))), level, latest]


def evolve_graph(  # noqa: PLR0913 - what is sought, from what, and for how long
    graph: GraphProblem,
    weight: float,
    bound_s: float,
    known: Sequence[Placing],
    *,
    seed: int,
    over: Callable[[], bool],
    soon: Callable[[], bool],
) -> Placing | None:
    """The best placing found, no worse than any known; None if there is none.

    `soon` says when to stop the evolution, `over` when to stop the local search.
    """
    rng = np.random.default_rng(seed)
    ops, nodes = len(graph.readers), len(graph.problem.nodes)

    def value_s(placing: Placing) -> float:
        return evaluate_graph(graph, placing).value_s(weight)

    starts = [(value_s(placing), placing) for placing in known]
    best = min(starts, default=None)
    machines = Machines(graph, sorted(set(best[1])) if best else None)

    def decode(keys: Floats) -> tuple[float, Placing | None]:
        order = kahn(graph, keys[:ops].tolist())
        limit_s = bound_s * LOOSEST ** keys[-1] if 0 < weight < 1 else inf
        parts = Parts.of(graph, order)
        placing = cut(order, parts, machines, rank(keys[ops:-1]), weight=weight, limit_s=limit_s)
        return (value_s(placing), placing) if placing else (inf, None)

    seeds = [_keys(graph, order, nodes, None) for order in _orders(graph)]
    if best:
        seeds += [_keys(graph, order, nodes, best[1]) for order in _orders(graph)]
    found = bred(decode, seeds, starts, keys=ops + nodes + 1, rng=rng, over=soon)
    return polished(graph, found, weight, rng, over) if found else None


def _keys(graph: GraphProblem, ops: Sequence[float], nodes: int, placing: Placing | None) -> Floats:
    """Op keys in [0, 1); node keys by speed, or as a placing has its stages, the others behind."""
    speed = np.array([node.speed for node in graph.problem.nodes])
    order = stage_order(graph, placing) if placing else []
    order += [node for node in rank(-speed) if node not in order]
    keys = np.empty(nodes)
    keys[order] = (np.arange(nodes) + 0.5) / nodes
    values = np.array(ops)
    values = (values - values.min()) / (np.ptp(values) + 1)
    return np.concatenate([values, keys, [0.5]])
