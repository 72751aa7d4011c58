"""Plans for graphs of ops: one question, several methods, a bound and a sentence a node."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from shardline.core.errors import BadInput
from shardline.core.units import format_bytes
from shardline.partition.dag import evaluate_graph, stage_order
from shardline.partition.dag_bounds import least_slowest_s, least_way_s, spread_s
from shardline.partition.dag_brkga import by_order, evolve_graph
from shardline.partition.dag_exact import exact_placing
from shardline.partition.ideals import sliced
from shardline.partition.outcome import Outcome
from shardline.partition.problem import Share, weight_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardline.partition.dag import GraphProblem
    from shardline.partition.problem import Figures

    Placing = tuple[int, ...]

__all__ = ["GRAPH_METHODS", "GraphPlan", "PlacedOps", "plan_graph"]

BUDGET_S = 5.0
PART = 0.5
"""Of the budget, at which the evolution stops; the rest is for local search."""
SURE_PLACINGS = 4**10
"""Up to so many placings `auto` tries them all, by branch and bound: a second or so."""
CLOSE = 1e-9
NEAR = 0.98
HALVINGS = 20


@dataclass(frozen=True, slots=True)
class PlacedOps:
    """These ops on the node of this name."""

    node: str
    ops: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPlan(Outcome):
    """A node for each op, what that would do, and how far from the best it can be."""

    assignment: tuple[PlacedOps, ...]
    """Each node after those that it reads from."""


class _Search:
    """What methods share: the graph, the objective, bounds, the seed and the time."""

    def __init__(
        self, graph: GraphProblem, weight: float, seed: int, budget_s: float | None
    ) -> None:
        self.graph, self.weight, self.seed = graph, weight, seed
        self._started_s, self._budget_s = time.perf_counter(), budget_s
        self.known: list[Placing] = []
        self.sure = False
        self.slowest_s = self.way_s = 0.0
        self.table: Placing | None = None
        """What the table of downsets holds for the best."""
        if weight:
            self._bound_slowest()
        if weight < 1:
            self.way_s = least_way_s(graph, 0.0, self.over)

    def _bound_slowest(self) -> None:
        graph = self.graph
        table = sliced(graph)
        self.table = table and table.placing
        other_s = table.bound_s if table else least_way_s(graph, 1.0, self.over)
        self.slowest_s = max(least_slowest_s(graph), spread_s(graph), other_s)

    def over(self, part: float = 1.0) -> bool:
        """Whether this part of the budget is used up; without a budget, never."""
        spent_s = time.perf_counter() - self._started_s
        return self._budget_s is not None and spent_s > part * self._budget_s

    def value_s(self, placing: Placing) -> float:
        return evaluate_graph(self.graph, placing).value_s(self.weight)

    def best(self) -> Placing | None:
        """The best that is known and can be."""
        there = [placing for placing in self.known if self.value_s(placing) < inf]
        return min(there, key=self.value_s, default=None)

    def bound_s(self, value_s: float) -> float:
        """The objective's bound; that of a mix is the mix of both."""
        if self.sure:
            return value_s
        if self.weight in {0.0, 1.0}:
            return min(value_s, self.slowest_s if self.weight else self.way_s)
        return min(value_s, self.weight * self.slowest_s + (1 - self.weight) * self.way_s)


def _slices(search: _Search) -> None:
    search.known += by_order(search.graph, search.weight, search.slowest_s, search.over)


def _brkga(search: _Search) -> None:
    _slices(search)
    found = evolve_graph(
        search.graph,
        search.weight,
        search.slowest_s,
        search.known,
        seed=search.seed,
        over=search.over,
        soon=lambda: search.over(PART),
    )
    search.known += [found] if found else []


def _exact(search: _Search) -> None:
    _slices(search)
    search.known += [search.table] if search.table else []
    found = exact_placing(search.graph, search.weight, search.known, search.bound_s(inf))
    search.known, search.sure = [found] if found else [], True


def _greedy(search: _Search) -> None:
    """The quickest nodes in turn, each given the next ops up to a limit; links do not count."""
    problem = search.graph.problem
    order = sorted(range(len(problem.nodes)), key=lambda node: -problem.nodes[node].speed)
    low_s, high_s = 0.0, inf
    for _ in range(HALVINGS):
        limit_s = (low_s + high_s) / 2
        placing = _filled(search.graph, order, limit_s)
        if placing:
            search.known.append(placing)
            high_s = limit_s if limit_s < inf else 2 * evaluate_graph(
                search.graph, placing
            ).bottleneck_s  # fmt: skip
        elif limit_s == inf:
            return
        else:
            low_s = limit_s


def _filled(graph: GraphProblem, order: list[int], limit_s: float) -> Placing | None:
    """Ops as they are listed on nodes in this order, none with more work than the limit."""
    placing: list[int] = []
    count, problem = len(graph.readers), graph.problem
    for node in order:
        start = len(placing)
        while len(placing) < count:
            taken_s = sum(problem.compute_s(Share(node, start, len(placing) + 1)))
            if taken_s == inf or taken_s > limit_s:
                break
            placing.append(node)
    return tuple(placing) if len(placing) == count else None


def _auto(search: _Search) -> None:
    _slices(search)
    search.known += [search.table] if search.table else []
    best = search.best()
    if best and search.value_s(best) <= search.bound_s(inf) * (1 + CLOSE):
        return
    if len(search.graph.problem.nodes) ** len(search.graph.readers) <= SURE_PLACINGS:
        _exact(search)
    else:
        _brkga(search)


GRAPH_METHODS: dict[str, Callable[[_Search], None]] = {
    "auto": _auto,
    "exact": _exact,
    "brkga": _brkga,
    "slices": _slices,
    "greedy": _greedy,
}


def plan_graph(
    graph: GraphProblem,
    method: str = "auto",
    *,
    objective: str | float = "throughput",
    seed: int = 0,
    budget_s: float | None = BUDGET_S,
) -> GraphPlan:
    """The method's placing of this graph, as `plan` for chains.

    The same seed gives the same plan if `budget_s` is None. Raises BadInput for an unknown method,
    for a graph that is too large for `exact`, or if no placing is found.
    """
    started_s = time.perf_counter()
    weight = weight_of(objective)
    if method not in GRAPH_METHODS:
        raise BadInput(f"no method {method!r}: there are {', '.join(GRAPH_METHODS)}")
    search = _Search(graph, weight, seed, budget_s)
    if search.bound_s(inf) < inf:
        GRAPH_METHODS[method](search)
    placing = search.best()
    if placing is None:
        raise BadInput(_does_not_fit(graph, method))
    figures = evaluate_graph(graph, placing)
    value_s = figures.value_s(weight)
    bound_s = search.bound_s(value_s)
    order = stage_order(graph, placing)
    nodes = graph.problem.nodes
    ops = {node: tuple(op for op, at in enumerate(placing) if at == node) for node in order}
    return GraphPlan(
        method=method,
        objective=objective,
        assignment=tuple(PlacedOps(nodes[node].name, ops[node]) for node in order),
        stage_ms=tuple(1e3 * stage_s for stage_s in figures.stage_s),
        bottleneck_ms=1e3 * figures.bottleneck_s,
        latency_ms=1e3 * figures.latency_s,
        value_ms=1e3 * value_s,
        lower_bound_ms=1e3 * bound_s,
        gap=(value_s - bound_s) / bound_s,
        reasons=_reasons(graph, order, [len(ops[node]) for node in order], figures),
        seconds=time.perf_counter() - started_s,
    )


def _does_not_fit(graph: GraphProblem, method: str) -> str:
    problem = graph.problem
    size = sum(block.parameter_bytes + block.cache_bytes for block in problem.blocks)
    held = sum(node.memory_bytes for node in problem.nodes)
    streams = any(node.stream_bytes_per_s for node in problem.nodes)
    if size > held and not streams:
        return (
            f"the graph has {format_bytes(size)} and the nodes hold {format_bytes(held)}: "
            f"add nodes with {format_bytes(size - held)}, or a rate to stream what does not fit"
        )
    return f"{method} finds no placing that fits these nodes and links: add memory or links"


def _reasons(
    graph: GraphProblem, order: list[int], counts: list[int], figures: Figures
) -> tuple[str, ...]:
    nodes = graph.problem.nodes
    said: list[str] = []
    for at, (node, count) in enumerate(zip(order, counts, strict=True)):
        links_s = figures.in_s[at] + figures.out_s[at]
        stage_s = figures.stage_s[at]
        what = f"{nodes[node].name} has {count} ops ({1e3 * stage_s:.1f} ms a step, "
        what += f"{1e3 * links_s:.1f} of them on its links): "
        if figures.overflow_s[at]:
            why = f"memory holds it back, {1e3 * figures.overflow_s[at]:.1f} ms go into streaming"
        elif links_s > figures.work_s[at]:
            why = "its links hold it back, computing takes less than they do"
        else:
            why = f"compute holds it back, at {nodes[node].speed:.2f} of the usual speed"
        slowest = ", and it is the slowest stage" if stage_s >= NEAR * figures.bottleneck_s else ""
        said.append(what + why + slowest)
    used = set(order)
    idle = [node.name for index, node in enumerate(nodes) if index not in used]
    return tuple(said + [f"{name} is unused: the others are better without it" for name in idle])
