"""Plans in which several nodes may hold the same blocks: for throughput, as one stream needs one.

What such a plan is worth is said in `sharing`, how rates and routes are found in `carrying`, and
how spans are in `diving`. The search starts from the best chain, from chains over the nodes that
others leave, and from nothing; the chain alone is always among what is compared.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from shardline.core.errors import BadInput
from shardline.core.spans import Span
from shardline.partition.carrying import carry
from shardline.partition.costs import Costs
from shardline.partition.diving import Diver
from shardline.partition.problem import Share
from shardline.partition.sharing import Route, carried, hulls, levelled
from shardline.partition.sharing_reasons import explain_shared
from shardline.partition.solve import BUDGET_S, Placed, Plan, plan
from shardline.partition.sweeping import Uses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shardline.partition.diving import Arrangement
    from shardline.partition.problem import Problem
    from shardline.partition.schemes import Library

    Over = Callable[[], bool]
    Chain = tuple[Share, ...]

__all__ = ["SharedPlan", "Way", "plan_shared", "spans_carry"]

PART_CHAIN, PART_BOUND, PART_FIXED, PART_SEARCH = 0.3, 0.5, 0.8, 0.9
"""Parts of the budget at which the best chain, the bound, rates and then spans are given up; the
rest is for what each node adds."""
CLOSE = 1e-3
"""How close to its bound a flow without a node is known when it is told."""
NOTHING = 1e-9
"""Of all tokens; routes that fewer take are rounding."""
ANY_BOUND_MS = 1e-9


@dataclass(frozen=True, slots=True)
class Way:
    """A route through all blocks, and how many tokens a second take it."""

    tokens_per_s: float
    shares: tuple[Placed, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPlan(Plan):
    """What nodes hold, with overlaps, and how sessions share it.

    `assignment` is in the order of the blocks. `stage_ms` is what one token on a node takes of its
    time, on average. `bottleneck_ms` is of the whole swarm: 1000 / `tokens_per_s`. `latency_ms` is
    that of the quickest of the routes.
    """

    tokens_per_s: float
    """Of all sessions together."""
    chain_tokens_per_s: float
    """What the best chain alone would carry."""
    node_tokens_per_s: tuple[float, ...]
    """What passes each, beside `assignment`; a token may pass a node twice."""
    busy: tuple[float, ...]
    """The part of its time, beside `assignment`."""
    routes: tuple[Way, ...]
    """The most taken one first."""


def plan_shared(
    problem: Problem,
    method: str = "auto",
    *,
    seed: int = 0,
    budget_s: float | None = BUDGET_S,
    library: Library | None = None,
) -> SharedPlan:
    """Spans for the nodes, on top of the method's chain, so that all sessions get most tokens.

    Arguments and errors are those of `plan`.
    """
    started_s = time.perf_counter()

    def over_at(part: float) -> Over:
        return lambda: budget_s is not None and time.perf_counter() - started_s > part * budget_s

    share_s = None if budget_s is None else PART_CHAIN * budget_s
    alone = plan(
        problem, method, seed=seed, budget_s=share_s, bound_ms=ANY_BOUND_MS, library=library
    )
    costs = Costs(problem)
    chain = _shares(problem, alone)
    chains = _more_chains(problem, chain, library, over_at(PART_BOUND))
    free = carry(Uses(costs, {}, others=True), chains, over=over_at(PART_BOUND))
    diver = Diver(costs, np.random.default_rng(seed), over_at(PART_FIXED))
    held = {share.node: Span(share.start, share.stop) for one in chains for share in one}
    known = (*chains, *free.known)
    found = [
        diver.settled(held, chains),
        diver.dive(diver.widened(held), known),
        diver.dive({}, known),
    ]
    if len(chains) > 1:
        first = {share.node: held[share.node] for share in chain}
        found.append(diver.dive(diver.widened(first), known))
    best = diver.improved(max(found, key=lambda one: one.flow.tokens_per_s), free.bound)
    routes = _routes(costs, best, over_at(PART_SEARCH))
    slowest = alone.assignment[int(np.argmax(alone.stage_ms))]
    return _told(
        problem, costs, alone, routes, free.bound,
        slowest=Span(slowest.start, slowest.stop), started_s=started_s, over=over_at(1.0),
    )  # fmt: skip


def spans_carry(problem: Problem, held: Mapping[str, Span]) -> float:
    """Tokens a second that nodes with these spans carry, at their best rates."""
    names = {node.name: index for index, node in enumerate(problem.nodes)}
    spans = {names[name]: span for name, span in held.items()}
    return carry(Uses(Costs(problem), spans, others=False)).tokens_per_s


def _shares(problem: Problem, found: Plan) -> Chain:
    names = {node.name: index for index, node in enumerate(problem.nodes)}
    return tuple(Share(names[one.node], one.start, one.stop) for one in found.assignment)


def _more_chains(
    problem: Problem, chain: Chain, library: Library | None, over: Over
) -> list[Chain]:
    """The chain, and others over the nodes that are left, as long as these hold the model."""
    chains = [chain]
    while not over():
        used = {problem.nodes[share.node].name for one in chains for share in one}
        if len(used) == len(problem.nodes):
            break
        try:
            left = problem.without(used)
            found = plan(left, "scheme", bound_ms=ANY_BOUND_MS, library=library)
        except BadInput:
            break
        chains.append(_shares(problem, found))
    return chains


def _routes(costs: Costs, best: Arrangement, over: Over) -> tuple[Route, ...]:
    """The arrangement's routes at their best rates, the most taken one first."""
    uses = Uses(costs, best.held, others=False)
    flow = carry(uses, best.flow.known, over=over)
    if flow.tokens_per_s < best.flow.tokens_per_s:
        flow = best.flow
    rates = [Route(rate, shares) for shares, rate in flow.rates]
    taken = [route for route in rates if route.tokens_per_s > NOTHING * flow.tokens_per_s]
    taken.sort(key=lambda route: (-route.tokens_per_s, route.shares))
    return levelled(costs.problem, hulls(taken), taken)


def _told(  # noqa: PLR0913 - each is a part of what a plan says
    problem: Problem,
    costs: Costs,
    alone: Plan,
    routes: tuple[Route, ...],
    bound: float,
    *,
    slowest: Span,
    started_s: float,
    over: Over,
) -> SharedPlan:
    held = hulls(routes)
    figures = carried(problem, held, routes)
    total = figures.tokens_per_s
    order = sorted(held, key=lambda node: (held[node], problem.nodes[node].name))
    names = [node.name for node in problem.nodes]
    adds = _adds(costs, held, routes, total, over)
    reasons = explain_shared(problem, held, figures, adds, order, slowest)
    value_ms, bound_ms = 1e3 / total, 1e3 / max(bound, total)
    return SharedPlan(
        method=alone.method,
        objective="throughput",
        assignment=tuple(
            Placed(names[node], held[node].start, held[node].stop) for node in order
        ),
        stage_ms=tuple(1e3 * float(figures.busy[node] / figures.passing[node]) for node in order),
        bottleneck_ms=value_ms,
        latency_ms=1e3 * figures.latency_s,
        value_ms=value_ms,
        lower_bound_ms=bound_ms,
        gap=(value_ms - bound_ms) / bound_ms,
        reasons=reasons,
        seconds=time.perf_counter() - started_s,
        tokens_per_s=total,
        chain_tokens_per_s=1e3 / alone.bottleneck_ms,
        node_tokens_per_s=tuple(float(figures.passing[node]) for node in order),
        busy=tuple(float(figures.busy[node]) for node in order),
        routes=tuple(
            Way(one.tokens_per_s, tuple(Placed(names[s.node], s.start, s.stop) for s in one.shares))
            for one in routes
        ),
    )  # fmt: skip


def _adds(
    costs: Costs, held: Mapping[int, Span], routes: tuple[Route, ...], total: float, over: Over
) -> dict[int, float]:
    """How many tokens a second there would be fewer without each node, where there was time."""
    found: dict[int, float] = {}
    for node in held:
        if over():
            break
        rest = {other: span for other, span in held.items() if other != node}
        uses = Uses(costs, rest, others=False)
        flow = carry(uses, [route.shares for route in routes], close=CLOSE, over=over)
        if flow.tokens_per_s >= flow.bound * (1 - CLOSE):
            found[node] = max(0.0, total - flow.tokens_per_s)
    return found
