"""The most that routes can carry: a linear programme over routes, which are made as needed.

Each node has one second a second to spend. Given routes, `packing` finds their best rates and what
a second of each node is worth; routes that cost less than they bring at these prices join. That is
exact, and at any prices a bound besides: whatever carries T tokens a second spends at least T times
the cheapest route, of the worth of all seconds.

Nodes may be restricted to spans (`Uses`). Where they are not, each may do any blocks that it could
hold: no plan carries more than that.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shardline.partition.bounds import least_stages
from shardline.partition.packing import Packing
from shardline.partition.sweeping import cheapest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from shardline.partition.costs import Costs
    from shardline.partition.problem import Share
    from shardline.partition.sweeping import Uses

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Shares = tuple[Share, ...]

__all__ = ["Flow", "carry"]

ROUNDS = 400
"""Of routes made, at most."""
JUMPING = 3.0
"""Routes are sought near the prices with the best bound so far, as those of few routes jump: by so
much over the number of nodes towards those of the routes known now, and if that finds none, there.
"""
FLOOR = 1e-3
"""What seconds cost at least, of their worth to a chain of equals: so of free nodes the quick are
tried."""
KEPT, KEPT_MORE = 6, 50
"""Routes at most: so many times the nodes, and some; those that carry nothing leave first."""


class Flow(NamedTuple):
    """Routes and rates, nodes' prices, and what none can beat under the same restrictions."""

    tokens_per_s: float
    rates: tuple[tuple[Shares, float], ...]
    """Only those that carry something."""
    known: tuple[Shares, ...]
    """All routes that were of use."""
    bound: float
    """Tokens a second."""


def carry(
    uses: Uses,
    known: Iterable[Shares] = (),
    *,
    close: float = 1e-7,
    hopeless: float = 0.0,
    over: Callable[[], bool] = lambda: False,
) -> Flow:
    """The most that these uses carry, as close as is said to the bound, from known routes on.

    It ends early when the bound shows that they carry no more than what is `hopeless`. Nothing is
    carried if no route leads through all blocks, or if there was no time to find one.
    """
    routes = _Routes(uses)
    routes.add([route for route in dict.fromkeys(known) if uses.allow(route)])
    usual = _usual_prices(uses.costs)
    best_prices, bound, rates = usual, inf, np.zeros(0)
    jump = min(0.5, JUMPING / uses.costs.nodes)
    for _ in range(ROUNDS):
        rates, prices = routes.shared()
        fresh: list[Shares] = []
        for mixed in (best_prices + jump * (prices - best_prices), prices):
            tried = cheapest(uses, mixed + FLOOR * usual)
            if not tried:
                return Flow(0.0, (), (), 0.0)
            worth = (1 + FLOOR) / tried[0][0]
            if worth < bound:
                bound, best_prices = worth, mixed
            fresh = routes.unknown([route for _, route in tried])
            if fresh:
                break
        total = float(rates.sum())
        done = total >= bound * (1 - close) or bound <= hopeless
        if done or not fresh or (total and over()):
            break
        routes.add(fresh)
    listed = zip(routes.known, rates.tolist(), strict=False)
    used = tuple((route, rate) for route, rate in listed if rate > 0)
    return Flow(float(rates.sum()), used, tuple(routes.known), bound)


class _Routes:
    """Known routes, and how they share the nodes' seconds best."""

    def __init__(self, uses: Uses) -> None:
        self.known: list[Shares] = []
        self._uses, self._count = uses, uses.costs.nodes
        self._packing, self._unit_s = Packing(self._count), 0.0
        self._had: set[Shares] = set()

    def unknown(self, routes: list[Shares]) -> list[Shares]:
        """Those of them that are not known."""
        return [route for route in routes if route not in self._had]

    def add(self, fresh: list[Shares]) -> None:
        """More routes; if there are many, those that carry nothing leave first."""
        if not fresh:
            return
        if len(self.known) > KEPT * self._count + KEPT_MORE:
            kept = np.sort(self._packing.packed())
            self._packing.drop(kept)
            self.known = [self.known[at] for at in kept.tolist()]
        times = np.stack([self._uses.times(route) for route in fresh], axis=1)
        self._unit_s = self._unit_s or float(times.max(axis=0).min())
        self._packing.add(times / self._unit_s)
        self.known += fresh
        self._had = set(self.known)

    def shared(self) -> tuple[Floats, Floats]:
        """The best rates of these routes, and what a second of each node is worth, of 1 in all."""
        if not self.known:
            return np.zeros(0), _usual_prices(self._uses.costs)
        rates, prices = self._packing.solve()
        busiest = float((self._packing.table @ rates).max())
        return rates / (busiest * self._unit_s), prices / prices.sum()


def _usual_prices(costs: Costs) -> Floats:
    """A node's blocks a second over its best links, of all nodes': at these no route is cheap."""
    blocks: Ints = np.arange(1, costs.band + 1)
    most = (blocks / least_stages(costs)).max(axis=1)
    return most / most.sum()
