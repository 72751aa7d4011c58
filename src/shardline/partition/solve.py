"""One question, many methods: a plan with its certificate and its reasons."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from shardline.core.errors import BadInput
from shardline.partition.bounds import assigned_bottleneck_s
from shardline.partition.brkga import evolve
from shardline.partition.costs import Costs
from shardline.partition.exact import exact
from shardline.partition.greedy import by_memory, by_petals, by_rate
from shardline.partition.growing import grow
from shardline.partition.mip import programmed
from shardline.partition.outcome import Outcome
from shardline.partition.polishing import ordered, polish
from shardline.partition.pricing import threaded
from shardline.partition.problem import evaluate, weight_of
from shardline.partition.reasons import explain
from shardline.partition.schemes_laying import quick_bound_s
from shardline.partition.schemes_picking import pick
from shardline.partition.touring import toured

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardline.partition.problem import Problem, Share
    from shardline.partition.schemes import Library

    Over = Callable[[], bool]
    Chain = tuple[Share, ...]

__all__ = ["METHODS", "Placed", "Plan", "plan"]

EXACT_NODES = 8
"""`auto` is exact up to here: a second or two. For latency alone, which is the quicker one, up to
`EXACT_LATENCY_NODES`, and up to `EXACT_MIX_NODES` for a mix."""
EXACT_LATENCY_NODES = 12
EXACT_MIX_NODES = 5
BUDGET_S = 5.0
PART_FAST, PART_WIDE, PART_ALL = 0.3, 0.6, 0.85
"""Parts of the budget at which, for a mix, the fastest chain and the widest are given up, and for
all objectives the search; the rest is for the bound."""
LIMITS_TRIED = 8
KICKS = 4
KICKS_NODES_MAX = 200
"""Of local searches for latency, which go once over all nodes and then over those that matter."""
SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class Placed:
    """Blocks [start, stop) on the node of this name."""

    node: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Outcome):
    """A chain, what it would do, and how far from the best it can be."""

    assignment: tuple[Placed, ...]


class _Search:
    """What methods share: the problem, the seed, and the time."""

    def __init__(
        self,
        problem: Problem,
        weight: float,
        seed: int,
        budget_s: float | None,
        library: Library | None,
    ) -> None:
        self.problem, self.weight, self.seed, self.library = problem, weight, seed, library
        self._started_s, self._budget_s = time.perf_counter(), budget_s
        self.costs = Costs(problem)
        self.costs.check_room()
        self.bound_s = 0.0
        self.best: Chain | None = None
        self.best_s = inf
        self._rng = np.random.default_rng(seed)
        self._fast: Chain | None = None
        self._over: Over = self.over_at(1.0)

    def over_at(self, part: float) -> Over:
        """Whether this part of the budget is used up; without a budget, never."""

        def over() -> bool:
            spent_s = time.perf_counter() - self._started_s
            return self._budget_s is not None and spent_s > part * self._budget_s

        return over

    def rest_at(self) -> Callable[[float], Over]:
        """`over_at` for parts of the time that is left now."""
        left_s = self.left_s()
        if left_s is None or not self._budget_s:
            return self.over_at
        used = 1 - left_s / self._budget_s
        return lambda part: self.over_at(used + (1 - used) * part)

    def left_s(self) -> float | None:
        """What is left of the budget; None without one."""
        if self._budget_s is None:
            return None
        return max(0.0, self._budget_s - (time.perf_counter() - self._started_s))

    def take(self, chain: Chain | None) -> None:
        """Keep the chain if it is the best so far."""
        if chain:
            value_s = evaluate(self.problem, chain).value_s(self.weight)
            if value_s < self.best_s:
                self.best, self.best_s = chain, value_s

    def fastest(self) -> Chain | None:
        """By prices and local search; its bound is kept where it is one of the objective."""
        until = PART_ALL if self.weight == 0 else PART_FAST
        self._over = self.over_at(until)
        found = toured(self.costs, self.over_at, until, better=self._polished)
        if self.weight == 0:
            self.bound_s = found.bound_s
        self.take(found.chain)
        return found.chain

    def _polished(self, costs: Costs, chain: Chain) -> Chain:
        """Local search among these nodes, from this chain and from the best before it."""
        place = {int(name): index for index, name in enumerate(costs.names)}
        best = chain
        kicks = KICKS if costs.nodes <= KICKS_NODES_MAX else 0
        for start in dict.fromkeys((chain, self._fast or chain)):
            order = [place[share.node] for share in start if share.node in place]
            if not order:
                continue
            found = ordered(costs, polish(costs, order, kicks, self._rng, self._over))
            chains = (best, found) if found else (best,)
            best = min(chains, key=lambda one: evaluate(self.problem, one).latency_s)
        self._fast = best
        return best

    def widest(self) -> Chain | None:
        """By growing at limits."""
        over = self.over_at(PART_ALL if self.weight == 1 else PART_WIDE)
        found = grow(self.costs, self.seed, over)
        self.take(found)
        return found

    def between(self, fast: Chain | None, wide: Chain | None) -> None:
        """Chains of little latency within limits between the two ends of the front."""
        if not (fast and wide):
            return
        high_s, low_s = (evaluate(self.problem, chain).bottleneck_s for chain in (fast, wide))
        few, over = self.costs, self.over_at(PART_ALL)
        for limit_s in np.geomspace(max(high_s, low_s), low_s * (1 + SLACK), LIMITS_TRIED):
            if over():
                break
            self.take(threaded(few, np.zeros(few.nodes), float(limit_s)))


def _auto(search: _Search) -> None:
    most = {0.0: EXACT_LATENCY_NODES, 1.0: EXACT_NODES}.get(search.weight, EXACT_MIX_NODES)
    if search.costs.nodes <= most:
        _exact(search)
    else:
        _search(search)


def _exact(search: _Search) -> None:
    search.take(exact(search.problem, search.weight))
    search.bound_s = search.best_s


def _search(search: _Search) -> None:
    for chain in pick(search.costs, search.weight, search.seed, search.library):
        search.take(chain)  # at once, and better than what a short search ends with
    fast = search.fastest() if search.weight < 1 else None
    wide = search.widest() if search.weight > 0 else None
    search.between(fast, wide)
    if search.weight and len(set(search.problem.blocks)) > 1:
        # Rooms in blocks of mean cost mislead where blocks differ: let whole orders compete.
        known = [chain for chain in (fast, wide) if chain]
        over = search.over_at(PART_ALL)
        search.take(evolve(search.costs, search.weight, search.seed, over, known))


def _ruled(search: _Search) -> list[Chain]:
    """Chains by rule, for a search to start from."""
    known: list[Chain] = []
    for rule in (by_rate, by_petals):
        try:
            known.append(rule(search.problem, search.weight))
        except BadInput:
            continue  # a seed less
    return known


def _brkga(search: _Search) -> None:
    over = search.over_at(PART_ALL)
    search.take(evolve(search.costs, search.weight, search.seed, over, _ruled(search)))


def _mip(search: _Search) -> None:
    """Chains by rule, and the solver's; without a bound of its in time, `plan` seeks one."""
    known = _ruled(search)
    found = programmed(search.costs, search.weight, known, search.left_s())
    for chain in (*known, found.chain):
        search.take(chain)
    search.bound_s = found.bound_s


def _scheme(search: _Search) -> None:
    for chain in pick(search.costs, search.weight, search.seed, search.library):
        search.take(chain)
    search.bound_s = quick_bound_s(search.costs, search.weight)


def _rule(rule: Callable[[Problem, float], Chain]) -> Callable[[_Search], None]:
    return lambda search: search.take(rule(search.problem, search.weight))


METHODS: dict[str, Callable[[_Search], None]] = {
    "auto": _auto,
    "exact": _exact,
    "mip": _mip,
    "search": _search,
    "brkga": _brkga,
    "scheme": _scheme,
    "greedy": _rule(by_rate),
    "memory": _rule(by_memory),
    "petals": _rule(by_petals),
}


def plan(  # noqa: PLR0913 - each names one part of what is asked
    problem: Problem,
    method: str = "auto",
    *,
    objective: str | float = "throughput",
    seed: int = 0,
    budget_s: float | None = BUDGET_S,
    bound_ms: float | None = None,
    library: Library | None = None,
) -> Plan:
    """The method's plan for this problem.

    The same seed gives the same plan if `budget_s` is None: then counts of rounds end the search,
    and not the clock. `bound_ms` is a lower bound that is known already; without one it is sought,
    within the budget. `library` holds the schemes to choose from; None: those shipped. Raises
    BadInput for an unknown method, or if no plan is possible.
    """
    started_s = time.perf_counter()
    weight = weight_of(objective)
    if method not in METHODS:
        raise BadInput(f"no method {method!r}: there are {', '.join(METHODS)}")
    search = _Search(problem, weight, seed, budget_s, library)
    METHODS[method](search)
    chain, value_s = search.best, search.best_s
    if chain is None or value_s == inf:
        raise BadInput("no chain of reachable nodes can hold the model: add memory or links")
    figures = evaluate(problem, chain)
    if bound_ms is not None:
        bound_s = max(search.bound_s, bound_ms / 1e3)
    else:
        bound_s = search.bound_s or _bound_s(search, chain)
    bound_s = min(bound_s, value_s)
    return Plan(
        method=method,
        objective=objective,
        assignment=tuple(
            Placed(problem.nodes[share.node].name, share.start, share.stop) for share in chain
        ),
        stage_ms=tuple(1e3 * stage_s for stage_s in figures.stage_s),
        bottleneck_ms=1e3 * figures.bottleneck_s,
        latency_ms=1e3 * figures.latency_s,
        value_ms=1e3 * value_s,
        lower_bound_ms=1e3 * bound_s,
        gap=(value_s - bound_s) / bound_s,
        reasons=explain(problem, search.costs, chain, figures),
        seconds=time.perf_counter() - started_s,
    )


def _bound_s(search: _Search, chain: Chain) -> float:
    """The objective's bound; that of a mix is the mix of both bounds."""
    figures, weight = evaluate(search.problem, chain), search.weight
    slowest_s = assigned_bottleneck_s(search.costs, figures.bottleneck_s) if weight else 0.0
    if weight == 1:
        return slowest_s
    way_s = toured(search.costs, search.rest_at(), start=chain).bound_s
    return weight * slowest_s + (1 - weight) * way_s
