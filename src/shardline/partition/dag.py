"""The problem of placing a graph of ops on unequal nodes (MTPP, PAPER section 2), as plain data.

What is the paper's: ops with work, parameters and an output; parts of them with an acyclic quotient
graph; a part costs `io in + work + overflow + io out`, and the dearest is the bottleneck. What is
ours beside what `problem` says already: a tensor goes over the link between its producer's node and
a reader's node, once for each pair of nodes, however many ops read it there. The paper counts the
output once for all readers; with one link rate and one reading node a tensor both are the same.

Ops without predecessors read the caller's input, and those without successors are its output. A
stage starts when all that it reads has come, so the latency is the longest way through the quotient
graph. A chain given as a graph has the chain's figures.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from math import inf
from typing import TYPE_CHECKING

from shardline.core.errors import BadInput
from shardline.partition.problem import Figures, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Placing = Sequence[int]
    """The index of each op's node."""

__all__ = ["GraphProblem", "evaluate_graph", "moved_bytes", "stage_order"]


@dataclass(frozen=True, slots=True, eq=False)
class GraphProblem:
    """Ops, the tensors between them, and the nodes."""

    problem: Problem
    """The ops as blocks, listed in an order in which they can run, and the nodes with links."""
    edges: tuple[tuple[int, int], ...]
    """(producer, reader): the reader reads the producer's one output."""
    readers: tuple[tuple[int, ...], ...] = field(init=False)
    """Of each op, in order."""
    producers: tuple[tuple[int, ...], ...] = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.problem.blocks)
        for producer, reader in self.edges:
            if not 0 <= producer < reader < count:
                raise BadInput(f"edge {producer} -> {reader}: ops are 0 to {count - 1}, and a "
                               "producer is listed before its readers")  # fmt: skip
        readers: list[list[int]] = [[] for _ in range(count)]
        producers: list[list[int]] = [[] for _ in range(count)]
        for producer, reader in sorted(set(self.edges)):
            readers[producer].append(reader)
            producers[reader].append(producer)
        object.__setattr__(self, "readers", tuple(map(tuple, readers)))
        object.__setattr__(self, "producers", tuple(map(tuple, producers)))

    @classmethod
    def of_chain(cls, problem: Problem) -> GraphProblem:
        """A chain of blocks as a graph."""
        last = len(problem.blocks) - 1
        return cls(problem, tuple((block, block + 1) for block in range(last)))


def moved_bytes(graph: GraphProblem, placing: Placing) -> dict[tuple[int, int], int]:
    """What one step sends from node to node, the caller having the last index.

    Raises ValueError if an op has no node.
    """
    problem, caller = graph.problem, len(graph.problem.nodes)
    count = len(problem.blocks)
    if len(placing) != count or not all(0 <= node < caller for node in placing):
        raise ValueError(f"{list(placing)} do not place {count} ops on {caller} nodes")
    moved: defaultdict[tuple[int, int], int] = defaultdict(int)
    for op, node in enumerate(placing):
        for reader in dict.fromkeys(placing[reader] for reader in graph.readers[op]):
            if reader != node:
                moved[node, reader] += problem.blocks[op].output_bytes
        if not graph.readers[op]:
            moved[node, caller] += problem.blocks[op].output_bytes
        if not graph.producers[op]:
            moved[caller, node] = problem.input_bytes
    return dict(moved)


def stage_order(
    graph: GraphProblem, placing: Placing, moved: Mapping[tuple[int, int], int] | None = None
) -> list[int]:
    """The nodes that are used, each after those that it reads from.

    Raises ValueError if an op has no node, or if nodes wait for each other.
    """
    caller = len(graph.problem.nodes)
    before: dict[int, set[int]] = {node: set() for node in dict.fromkeys(placing)}
    for sender, receiver in moved or moved_bytes(graph, placing):
        if caller not in {sender, receiver}:
            before[receiver].add(sender)
    try:
        return list(TopologicalSorter(before).static_order())
    except CycleError as error:
        circle = " -> ".join(str(node) for node in error.args[1])
        raise ValueError(f"nodes {circle} wait for each other") from None


def evaluate_graph(graph: GraphProblem, placing: Placing) -> Figures:
    """Every figure of a placing, a stage for each entry of `stage_order`; inf where it cannot be.

    Raises ValueError as `stage_order` does.
    """
    problem, caller = graph.problem, len(graph.problem.nodes)
    moved = moved_bytes(graph, placing)
    order = stage_order(graph, placing, moved)
    ops: dict[int, list[int]] = {node: [] for node in order}
    for op, node in enumerate(placing):
        ops[node].append(op)
    into, out, ready = (dict.fromkeys((*order, caller), 0.0) for _ in range(3))
    link_s = {link: _over(problem, link, size) for link, size in moved.items()}
    for (sender, receiver), seconds in link_s.items():
        out[sender] += seconds
        into[receiver] += seconds
    computed = {node: problem.held_s(node, ops[node]) for node in order}
    sent: dict[int, list[int]] = {node: [] for node in (*order, caller)}
    for sender, receiver in moved:
        sent[sender].append(receiver)
    for sender in (caller, *order):
        left_s = sum(computed[sender]) + ready[sender] if sender != caller else 0.0
        for receiver in sent[sender]:
            link = sender, receiver
            arrived_s = left_s + float(problem.delay_s[link]) + link_s[link]
            ready[receiver] = max(ready[receiver], arrived_s)
    stages = [into[node] + sum(computed[node]) + out[node] for node in order]
    return Figures(
        in_s=tuple(into[node] for node in order),
        work_s=tuple(computed[node][0] for node in order),
        overflow_s=tuple(computed[node][1] for node in order),
        out_s=tuple(out[node] for node in order),
        stage_s=tuple(stages),
        bottleneck_s=max(stages),
        latency_s=ready[caller],
    )


def _over(problem: Problem, link: tuple[int, int], size: int) -> float:
    """How long so many bytes occupy a link and its two ends."""
    rate = float(problem.bytes_per_s[link])
    return size / rate if rate else inf
