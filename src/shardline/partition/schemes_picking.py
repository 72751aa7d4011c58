"""A plan at once: the schemes made for the likest states, laid on this problem (PAPER 3)."""

from __future__ import annotations

from math import inf, sqrt
from typing import TYPE_CHECKING

import numpy as np

from shardline.partition.costs import Costs
from shardline.partition.pricing import threaded
from shardline.partition.problem import evaluate, weight_of
from shardline.partition.schemes import nearest_schemes, shipped, state_of
from shardline.partition.schemes_laying import Swarm, lay_fast, lay_wide, quick_bound_s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardline.partition.problem import Problem, Share
    from shardline.partition.schemes import Library, Scheme

    Chain = tuple[Share, ...]

__all__ = ["lay", "pick"]

SEVERAL, SEVERAL_NODES_MAX = 2, 64
"""For throughput, so many schemes compete on a swarm of at most so many nodes, unless the first is
PROVEN near; else it is the nearest alone."""
PROVEN = 1.01


def pick(costs: Costs, weight: float, seed: int, library: Library | None = None) -> list[Chain]:
    """Chains after the schemes for the states most like this problem's; None: those shipped."""
    count = SEVERAL if weight == 1 and costs.nodes <= SEVERAL_NODES_MAX else 1
    state = state_of(costs.problem)
    likest = nearest_schemes(library or shipped(), state, costs.blocks, count)
    return _laid(costs, likest, weight, seed)


def lay(
    problem: Problem, scheme: Scheme, *, objective: str | float = "throughput", seed: int = 0
) -> Chain | None:
    """The best chain after this scheme, whether its state is like this problem's or not.

    None if it finds none; raises BadInput for a model that the nodes cannot hold.
    """
    costs, weight = Costs(problem), weight_of(objective)
    costs.check_room()
    found = _laid(costs, [scheme], weight, seed)
    return min(found, key=lambda chain: evaluate(problem, chain).value_s(weight), default=None)


def _laid(costs: Costs, schemes: Sequence[Scheme], weight: float, seed: int) -> list[Chain]:
    """Chains after these schemes; for a mix also one between the fastest and the widest."""
    swarm, rng = Swarm(costs.problem), np.random.default_rng(seed)
    found: list[Chain] = []
    for scheme in schemes:
        best_s = min((evaluate(costs.problem, one).value_s(weight) for one in found), default=inf)
        if best_s < inf and best_s <= PROVEN * quick_bound_s(costs, weight):
            break
        wide = lay_wide(costs, scheme, swarm, rng) if weight > 0 else None
        fast = lay_fast(costs, scheme, swarm, rng) if weight < 1 else None
        found += [chain for chain in (wide, fast) if chain]
        if wide and fast:
            ends = [evaluate(costs.problem, chain).bottleneck_s for chain in (wide, fast)]
            near = costs.among(sorted({share.node for share in (*wide, *fast)}))
            between = threaded(near, np.zeros(near.nodes), sqrt(ends[0] * ends[1]))
            found += [between] if between else []
    return found
