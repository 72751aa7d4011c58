"""What no placing of a graph of ops can beat: ours, after the paper's bounds, for unequal nodes.

The paper bounds the slowest stage by all work over all machines and by the dearest op; here ops are
spread over the nodes in fractions, within speeds and memory, which a linear programme does best.

Along a way through the graph, no placing comes back to a node that it has left, as nodes would wait
for each other. So the ops of a way are a chain of blocks, and the best plan of that chain alone is
as quick as any placing of the whole graph, in its slowest stage and from end to end.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from shardline.core.errors import BadInput
from shardline.partition.costs import Costs
from shardline.partition.exact import exact
from shardline.partition.pricing import price
from shardline.partition.problem import evaluate

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from shardline.partition.dag import GraphProblem
    from shardline.partition.problem import Problem

    Floats = NDArray[np.float64]

__all__ = ["least_slowest_s", "least_way_s", "spread_s"]

_optimize = cast("Any", importlib.import_module("scipy.optimize"))
_sparse = cast("Any", importlib.import_module("scipy.sparse"))

TOLERANCE = 1e-6
"""Relative; by so much the solver's bound is lowered."""
EXACT_NODES = {0.0: 8, 1.0: 6}
"""By objective: the best plan of a way is sought up to here, and only its bound beyond."""


def least_slowest_s(graph: GraphProblem) -> float:
    """Of the slowest stage: all work over all speeds, and the op that is dearest where cheapest.

    Each op's time is that on the best node that can hold it alone. With the first k nodes (by
    overhead) at work, speed * (t - overhead) must sum up to the work; the least t counts.
    """
    problem = graph.problem
    hardest_s = max(_least_s(graph, op) for op in range(len(problem.blocks)))
    nodes = sorted(problem.nodes, key=lambda node: node.overhead_s)
    speed = np.cumsum([node.speed for node in nodes])
    idle = np.cumsum([node.speed * node.overhead_s for node in nodes])
    work = sum(block.work_s for block in problem.blocks)
    return max(hardest_s, float(((work + idle) / speed).min()))


def spread_s(graph: GraphProblem) -> float:
    """Of the slowest stage: ops in fractions on all nodes that could hold them; inf if none can.

    minimise t: the parts of each op sum up to one; a node's work, and what it streams, takes at
    most t; what it holds and does not stream fits.
    """
    problem = graph.problem
    ops, nodes = len(problem.blocks), len(problem.nodes)
    held = np.array([block.parameter_bytes + block.cache_bytes for block in problem.blocks])
    work = np.array([block.work_s for block in problem.blocks])
    # In units of their own, so that the solver's tolerances are small against all of them.
    second, byte = float(work.sum()), max(1.0, float(held.sum()))
    # Columns: op by op its part on each node; what each node streams; t.
    node = np.tile(np.arange(nodes), ops)
    op = np.repeat(np.arange(ops), nodes)
    parts, streams, last = np.arange(ops * nodes), ops * nodes + np.arange(nodes), (ops + 1) * nodes
    speed = np.array([machine.speed for machine in problem.nodes])
    rate = np.array([machine.stream_bytes_per_s or inf for machine in problem.nodes])
    memory = np.array([machine.memory_bytes for machine in problem.nodes])
    values = [work[op] / speed[node] / second, byte / rate / second, np.full(nodes, -1.0)]
    values += [held[op] / byte, np.full(nodes, -1.0)]
    rows = [node, np.arange(nodes), np.arange(nodes), nodes + node, nodes + np.arange(nodes)]
    columns = [parts, streams, np.full(nodes, last), parts, streams]
    limits = _sparse.csr_array(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
        shape=(2 * nodes, last + 1),
    )
    whole = _sparse.csr_array((np.ones(ops * nodes), (op, parts)), shape=(ops, last + 1))
    most = np.full(last + 1, inf)
    most[streams[np.isinf(rate)]] = 0
    for at in range(ops * nodes):
        if sum(problem.held_s(int(node[at]), [int(op[at])])) == inf:
            most[at] = 0
    solved = _optimize.linprog(
        np.eye(1, last + 1, last)[0],
        A_ub=limits, b_ub=np.concatenate([np.zeros(nodes), memory / byte]),
        A_eq=whole, b_eq=np.ones(ops), bounds=np.stack([np.zeros(last + 1), most], axis=1),
    )  # fmt: skip
    if solved.status == 2:  # noqa: PLR2004 - infeasible
        return inf
    return float(solved.fun) * second * (1 - TOLERANCE) if solved.status == 0 else 0.0


def least_way_s(graph: GraphProblem, weight: float, over: Callable[[], bool]) -> float:
    """Of the latency, or of the slowest stage with weight 1: the best plan of a way alone.

    The ways are the longest by work, by bytes held and by ops; as much of each as time allows.
    """
    blocks = graph.problem.blocks
    works = [block.work_s for block in blocks]
    held = [float(block.parameter_bytes + block.cache_bytes) for block in blocks]
    nodes = tuple(replace(node, holds=None) for node in graph.problem.nodes)
    ways = {_longest(graph, lengths) for lengths in (works, held, [1.0] * len(blocks))}
    bound_s = 0.0
    for way in sorted(ways):
        chain = replace(graph.problem, blocks=tuple(blocks[op] for op in way), nodes=nodes)
        bound_s = max(bound_s, _of_chain(chain, weight, over))
        if over():
            break
    return bound_s


def _of_chain(chain: Problem, weight: float, over: Callable[[], bool]) -> float:
    """What no plan of a chain beats."""
    if len(chain.nodes) > EXACT_NODES[weight]:
        return 0.0 if weight else price(Costs(chain), over).bound_s
    try:
        return evaluate(chain, exact(chain, weight)).value_s(weight) * (1 - TOLERANCE)
    except BadInput:
        return inf


def _longest(graph: GraphProblem, lengths: list[float]) -> tuple[int, ...]:
    """The way through the graph with the greatest sum of lengths."""
    total, before = list(lengths), [-1] * len(lengths)
    for op, producers in enumerate(graph.producers):
        if producers:
            before[op] = max(producers, key=total.__getitem__)
            total[op] += total[before[op]]
    at = max(range(len(total)), key=total.__getitem__)
    way: list[int] = []
    while at >= 0:
        way.append(at)
        at = before[at]
    return tuple(reversed(way))


def _least_s(graph: GraphProblem, op: int) -> float:
    """The least time of an op, with its overhead and what is streamed, wherever it fits."""
    nodes = range(len(graph.problem.nodes))
    return min((sum(graph.problem.held_s(node, [op])) for node in nodes), default=inf)
