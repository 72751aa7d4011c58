"""Baselines to be measured against: quickest nodes first, memory-proportional, and Petals' rule."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from shardline.core.errors import BadInput
from shardline.core.spans import Span
from shardline.partition.costs import Costs, listed
from shardline.partition.growing import fitted
from shardline.partition.polishing import ordered
from shardline.partition.pricing import threaded
from shardline.partition.problem import Share, evaluate

if TYPE_CHECKING:
    from shardline.partition.problem import Problem

    Chain = tuple[Share, ...]

__all__ = ["by_memory", "by_petals", "by_rate"]

PETALS_HOP_S = 0.018
"""What that rule adds to every hop for serialisation (PAPER section 1)."""


def by_rate(problem: Problem, weight: float) -> Chain:
    """The quickest nodes, quickest first: as few as hold the model, twice, four times as many..."""
    costs = Costs(problem)
    costs.check_room()
    speed = np.array([node.speed for node in problem.nodes])
    rooms = costs.capacities()
    order = [int(node) for node in np.argsort(-speed, kind="stable") if rooms[node]]
    count = 1 + int(np.searchsorted(np.cumsum(rooms[order]), costs.blocks))
    found: list[Chain] = []
    while True:
        taken = order[: min(count, costs.blocks)]
        chains = [ordered(costs, taken), fitted(costs, taken, inf) if weight else None]
        found += [chain for chain in chains if chain]
        if count >= min(len(order), costs.blocks):
            break
        count *= 2
    return _best(problem, found, weight, "quickest nodes first")


def by_memory(problem: Problem, weight: float) -> Chain:
    """Nodes as they are listed, each with its share of the blocks by memory; links do not count."""
    del weight  # the rule knows no objective
    costs = Costs(problem)
    costs.check_room()
    rooms = costs.capacities()
    largest = np.argsort(-rooms, kind="stable")[: costs.blocks]
    nodes = np.sort(largest[rooms[largest] > 0])
    memory = np.array(
        [problem.nodes[node].memory_bytes for node in listed(nodes)], dtype=np.float64
    )
    shares = costs.blocks * memory / memory.sum()
    counts = np.clip(np.floor(shares).astype(np.int64), 1, rooms[nodes])
    while (left := costs.blocks - int(counts.sum())) != 0:
        lack = shares - counts
        lack[counts >= rooms[nodes] if left > 0 else counts <= 1] = -inf if left > 0 else inf
        counts[lack.argmax() if left > 0 else lack.argmin()] += 1 if left > 0 else -1
    stops = np.cumsum(counts)
    ends = zip(nodes.tolist(), (stops - counts).tolist(), stops.tolist(), strict=True)
    return _best(
        problem, [tuple(Share(*end) for end in ends)], 0.0, "memory-proportional placement"
    )


def by_petals(problem: Problem, weight: float) -> Chain:
    """PAPER section 1: nodes join as they are listed, each where blocks are served worst.

    A node takes as many blocks as it can hold, n of them giving rate / ((n + 1) / 2) each (links
    do not count on equal networks); then the caller takes the way of least latency.
    """
    del weight
    costs = Costs(problem)
    costs.check_room()
    mean_s = sum(block.work_s for block in problem.blocks) / costs.blocks
    served = np.zeros(costs.blocks)
    nodes = list(problem.nodes)
    for index, room in enumerate(costs.capacities().tolist()):
        if not room:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(served, room)
        start = min(range(len(windows)), key=lambda at: sorted(windows[at].tolist()))
        node = nodes[index]
        served[start : start + room] += node.speed / mean_s * 2 / (room + 1)
        held = node.holds or Span(start, start + room)
        nodes[index] = replace(node, holds=held, overhead_s=node.overhead_s + PETALS_HOP_S)
    placed = Costs(replace(problem, nodes=tuple(nodes)))
    chain = threaded(placed, np.zeros(placed.nodes))
    return _best(problem, [chain] if chain else [], 0.0, "Petals' rule")


def _best(problem: Problem, chains: list[Chain], weight: float, rule: str) -> Chain:
    """The best of these; raises BadInput if none can be."""
    values = [evaluate(problem, chain).value_s(weight) for chain in chains]
    if not values or min(values) == inf:
        raise BadInput(f"{rule} finds no chain that fits these nodes and links: try --method auto")
    return chains[int(np.argmin(values))]
