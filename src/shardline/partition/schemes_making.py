"""The library's making: made-up networks of common kinds, planned near the best, seen as roles.

Searches end by counts and not by a clock, so the same arguments give the same bytes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import numpy as np

from shardline.core.errors import BadInput
from shardline.partition.costs import Costs
from shardline.partition.families import FAMILIES, make
from shardline.partition.growing import grow
from shardline.partition.polishing import ordered, polish
from shardline.partition.pricing import threaded
from shardline.partition.problem import evaluate
from shardline.partition.schemes import Laid, Scheme, state_of
from shardline.partition.schemes_laying import Swarm, quick_bound_s
from shardline.topology import Fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from shardline.partition.problem import Problem, Share

    Chain = tuple[Share, ...]

__all__ = ["precompute", "scheme_of"]

LOOKS: Final = 3_000
"""Tries of a search for throughput: a second or two on one core."""
KICKS: Final = 12
NEAR: Final = 64


def precompute(
    nodes: Sequence[int], families: Sequence[str], blocks: Sequence[int], seed: int
) -> Iterator[Scheme]:
    """A scheme for each family, number of nodes and number of blocks, one after the other.

    Raises BadInput for an unknown family, or if a network has no plan.
    """
    for family in families:
        if family not in FAMILIES:
            raise BadInput(f"no family {family!r}: there are {', '.join(FAMILIES)}")
        for count in nodes:
            for deep in blocks:
                name = f"{family} {count}x{deep} seed {seed}"
                yield scheme_of(make(family, count, deep, seed), name, seed)


def scheme_of(problem: Problem, name: str, seed: int = 0, looks: int = LOOKS) -> Scheme:
    """Near-optimal plans for this problem, as roles; raises BadInput if there are none."""
    costs = Costs(problem)
    costs.check_room()
    swarm, rng = Swarm(problem), np.random.default_rng(seed)
    wide, fast = grow(costs, seed, _after(looks)), _fastest(costs, rng)
    if not (wide and fast):
        raise BadInput(f"{name}: no chain of reachable nodes can hold the model")
    return Scheme(
        name,
        costs.blocks,
        _short(state_of(problem)),
        throughput=_laid(costs, swarm, wide, 1.0),
        latency=_laid(costs, swarm, fast, 0.0),
    )


def _short(state: Fingerprint) -> Fingerprint:
    """The same with four digits of each number."""
    text = json.dumps(state.as_json())
    return Fingerprint.from_json(json.loads(text, parse_float=lambda x: float(f"{float(x):.4g}")))


def _laid(costs: Costs, swarm: Swarm, chain: Chain, weight: float) -> Laid:
    ratio = evaluate(costs.problem, chain).value_s(weight) / quick_bound_s(costs, weight)
    return Laid(round(max(1.0, ratio), 4), swarm.of([share.node for share in chain]))


def _fastest(costs: Costs, rng: np.random.Generator) -> Chain | None:
    """The fastest way among the quickest nodes, by local search with many kicks."""
    into = costs.cheapest_links()[0]
    rank = (costs.least + into[:, None]) / np.arange(1, costs.band + 1)
    near = costs.among(np.sort(rank.min(axis=1).argsort(kind="stable")[:NEAR]))
    found = threaded(near, np.zeros(near.nodes)) or threaded(costs, np.zeros(costs.nodes))
    if not found or any(share.node not in near.names for share in found):
        return found
    place = {int(name): index for index, name in enumerate(near.names)}
    start = [place[share.node] for share in found]
    better = ordered(near, polish(near, start, KICKS, rng, lambda: False))
    both = [found, better or found]
    return min(both, key=lambda chain: evaluate(costs.problem, chain).latency_s)


def _after(looks: int) -> Callable[[], bool]:
    """Over after so many looks."""
    left = iter(range(looks))
    return lambda: next(left, None) is None
