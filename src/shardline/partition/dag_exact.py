"""The best placing of a small graph of ops for certain: a bound that is met, or branch and bound.

Where a known placing is as good as a bound, as that of `ideals` often is, it is the best.
Otherwise ops are placed one after the other, in their order, each on every node: a part of a
placing has no shorter stage, no shorter way and no fewer circles once more ops are placed, so what
is no better than the best known placing is left. At most n^L placings of L ops on n nodes.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from shardline.core.errors import BadInput
from shardline.partition.dag import evaluate_graph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardline.partition.dag import GraphProblem

    Placing = tuple[int, ...]

__all__ = ["exact_placing"]

PLACINGS_MAX = 4**13
"""n^L, for branch and bound; mostly a thousandth of them are looked at."""
CLOSE = 1e-9


def exact_placing(
    graph: GraphProblem, weight: float, known: Sequence[Placing], bound_s: float
) -> Placing | None:
    """The best placing, or None if there is none; `bound_s` is a lower bound that is known.

    Raises BadInput if the graph is too large to be certain.
    """

    def value_s(placing: Placing) -> float:
        return evaluate_graph(graph, placing).value_s(weight)

    best = min(known, key=value_s, default=None)
    if best and value_s(best) <= bound_s * (1 + CLOSE):
        return best
    ops, nodes = len(graph.problem.blocks), len(graph.problem.nodes)
    if nodes**ops > PLACINGS_MAX:
        raise BadInput(f"exact is not certain of {ops} ops on these {nodes} nodes: "
                       "method auto plans them and states its gap")  # fmt: skip
    tree = _Tree(graph, weight, value_s(best) if best else inf, best)
    tree.descend(0)
    return tree.best


class _Tree:
    """Depth first; `loads` and `moved` are those of the ops placed so far."""

    def __init__(
        self, graph: GraphProblem, weight: float, best_s: float, best: Placing | None
    ) -> None:
        self.graph, self.weight, self.best, self.best_s = graph, weight, best, best_s
        problem = graph.problem
        self.caller = len(problem.nodes)
        self.nodes = range(self.caller)
        self.speeds = [node.speed for node in problem.nodes]
        self.left_s = [
            sum(block.work_s for block in problem.blocks[op:])
            for op in range(len(problem.blocks) + 1)
        ]
        with_caller = self.caller + 1
        self.delay_s: list[list[float]] = problem.delay_s.tolist()
        rates = problem.bytes_per_s.tolist()
        self.per_byte = [[1 / rate if rate else inf for rate in row] for row in rates]
        self.moved: list[list[int | None]] = [[None] * with_caller for _ in range(with_caller)]
        self.placing: list[int] = []
        self.ops: list[list[int]] = [[] for _ in self.nodes]

    def descend(self, op: int) -> None:
        """Try the op on every node."""
        graph = self.graph
        if op == len(graph.problem.blocks):
            value_s = evaluate_graph(graph, self.placing).value_s(self.weight)
            if value_s < self.best_s:
                self.best, self.best_s = tuple(self.placing), value_s
            return
        tried: list[tuple[float, int]] = []
        for node in self.nodes:
            undo = self._place(op, node)
            least_s = self._least_s(op + 1)
            if least_s < self.best_s * (1 - CLOSE):
                tried.append((least_s, node))
            self._take_back(node, undo)
        for least_s, node in sorted(tried):
            if least_s < self.best_s * (1 - CLOSE):
                undo = self._place(op, node)
                self.descend(op + 1)
                self._take_back(node, undo)

    def _place(self, op: int, node: int) -> list[tuple[int, int, int | None]]:
        """Put the op there; gives what it changed in `moved`."""
        graph, undo = self.graph, list[tuple[int, int, int | None]]()
        blocks = graph.problem.blocks

        def send(sender: int, receiver: int, size: int) -> None:
            before = self.moved[sender][receiver]
            undo.append((sender, receiver, before))
            self.moved[sender][receiver] = (before or 0) + size

        for producer in graph.producers[op]:
            sender = self.placing[producer]
            readers = (self.placing[one] for one in graph.readers[producer] if one < op)
            if sender != node and node not in readers:
                send(sender, node, blocks[producer].output_bytes)
        if not graph.producers[op] and self.moved[self.caller][node] is None:
            send(self.caller, node, graph.problem.input_bytes)
        if not graph.readers[op]:
            send(node, self.caller, blocks[op].output_bytes)
        self.placing.append(node)
        self.ops[node].append(op)
        return undo

    def _take_back(self, node: int, undo: list[tuple[int, int, int | None]]) -> None:
        for sender, receiver, before in reversed(undo):
            self.moved[sender][receiver] = before
        self.placing.pop()
        self.ops[node].pop()

    def _least_s(self, done: int) -> float:
        """No placing that goes on from here is better than this; inf if none can be."""
        link_s = [
            [0.0 if size is None else size * per_byte if per_byte < inf else inf
             for size, per_byte in zip(*rows, strict=True)]
            for rows in zip(self.moved, self.per_byte, strict=True)
        ]  # fmt: skip
        own_s = [
            sum(self.graph.problem.held_s(node, self.ops[node])) if self.ops[node] else 0.0
            for node in self.nodes
        ]
        way_s = self._way_s(link_s, own_s)
        if way_s == inf or self.weight == 0:
            return way_s
        loads = [
            own_s[node] + sum(link_s[node]) + sum(row[node] for row in link_s)
            for node in self.nodes
        ]
        slowest_s = max(*loads, self._shared_s(loads, self.left_s[done]))
        return self.weight * slowest_s + (1 - self.weight) * way_s

    def _way_s(self, link_s: list[list[float]], own_s: list[float]) -> float:
        """The longest way through what is placed; inf where it goes in a circle."""
        used = [node for node in self.nodes if self.ops[node]]
        ready = dict.fromkeys([*used, self.caller], 0.0)
        senders = {node: {one for one in used if self.moved[one][node] is not None}
                   for node in used}  # fmt: skip
        way_s = 0.0
        if not used:
            return 0.0
        for receiver in used:
            if self.moved[self.caller][receiver] is not None:
                ready[receiver] = (
                    self.delay_s[self.caller][receiver] + link_s[self.caller][receiver]
                )
        while senders:
            free = next((node for node, those in senders.items() if not those), None)
            if free is None:
                return inf
            del senders[free]
            left_s = ready[free] + own_s[free]
            for node in (*senders, self.caller):
                if self.moved[free][node] is not None:
                    arrived_s = left_s + self.delay_s[free][node] + link_s[free][node]
                    ready[node] = max(ready[node], arrived_s)
                    senders.get(node, set()).discard(free)
            way_s = max(way_s, left_s)
        return max(way_s, ready[self.caller])

    def _shared_s(self, loads: list[float], work_s: float) -> float:
        """The least time in which nodes with these loads can do this work too."""
        best, speed, loaded = inf, 0.0, 0.0
        for load, fast in sorted(zip(loads, self.speeds, strict=True)):
            speed, loaded = speed + fast, loaded + fast * load
            best = min(best, (work_s + loaded) / speed)
        return best
