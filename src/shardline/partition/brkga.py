"""Biased random keys (BRKGA, PAPER section 2) over the order of nodes.

A chromosome holds a key for each node and one for the limit on stages. The decoder sorts the nodes
by key and cuts the blocks along that order by dynamic programming (SliceGraph's, on nodes in place
of ops), nodes left out where that is better. Settings as PAPER has them (Goncalves and Resende).
Ours: the first generation is seeded with good orders, only nodes that matter take part, and the
best chain is polished by local search: a plain one loses to the speed order at 512 nodes.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from shardline.partition.bounds import least_bottleneck_s
from shardline.partition.costs import listed
from shardline.partition.growing import fitted
from shardline.partition.polishing import ordered, polish
from shardline.partition.pricing import threaded
from shardline.partition.problem import evaluate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from shardline.partition.costs import Costs
    from shardline.partition.problem import Share

    Floats = NDArray[np.float64]
    Chain = tuple[Share, ...]

__all__ = ["LOOSEST", "bred", "evolve"]

Found = TypeVar("Found")

POPULATION = 24
ELITE = 0.2
MUTANTS = 0.15
INHERITED = 0.7
"""The chance that a key comes from the elite parent."""
GENERATIONS = 20
TAKING_PART = 64
"""Nodes with keys; more nodes than this only cost time."""
LOOSEST = 8.0
"""The limit's key goes from the lower bound to this many times it."""
KICKS = 10


def evolve(
    costs: Costs, weight: float, seed: int, over: Callable[[], bool], known: list[Chain]
) -> Chain | None:
    """The best chain found, no worse than any known; None if there is none."""
    rng = np.random.default_rng(seed)
    few = _matter(costs, known)
    problem = few.problem
    bound_s = least_bottleneck_s(few)

    def decode(keys: Floats) -> tuple[float, Chain | None]:
        place = keys[:-1].argsort().argsort()
        limit_s = bound_s * LOOSEST ** keys[-1] if weight else inf
        chain = threaded(few, np.zeros(few.nodes), limit_s, place[:, None] <= place)
        return (evaluate(problem, chain).value_s(weight), chain) if chain else (inf, None)

    starts = [(evaluate(problem, chain).value_s(weight), chain) for chain in known]
    seeds = _seeds(few, known, bound_s)
    best = bred(decode, seeds, starts, keys=few.nodes + 1, rng=rng, over=over)
    return _finished(few, weight, best, rng, over)


def bred(  # noqa: PLR0913 - what evolves, from what, and for how long
    decode: Callable[[Floats], tuple[float, Found | None]],
    seeds: Sequence[Floats],
    known: Sequence[tuple[float, Found]],
    *,
    keys: int,
    rng: np.random.Generator,
    over: Callable[[], bool],
    generations: int = GENERATIONS,
) -> Found | None:
    """The best that any generation of keys decodes to, or that is known; at least the seeds are."""
    best: tuple[float, Found | None] = min(known, key=lambda one: one[0], default=(inf, None))
    people = rng.random((POPULATION, keys))
    people[: len(seeds)] = seeds[:POPULATION]
    values = np.full(POPULATION, inf)
    elite, mutants = round(ELITE * POPULATION), round(MUTANTS * POPULATION)
    children = POPULATION - elite - mutants
    for generation in range(generations + 1):
        for place in range(elite if generation else 0, POPULATION):
            if over() and (generation or place >= len(seeds)):
                return best[1]
            found = decode(people[place])
            values[place] = found[0]
            best = min((best, found), key=lambda one: one[0])
        people, values = people[values.argsort(kind="stable")], np.sort(values)
        mothers = people[rng.integers(elite, size=children)]
        fathers = people[rng.integers(elite, POPULATION, size=children)]
        mixed = np.where(rng.random(mothers.shape) < INHERITED, mothers, fathers)
        people[elite:] = np.concatenate([mixed, rng.random((mutants, keys))])
    return best[1]


def _finished(
    costs: Costs,
    weight: float,
    chain: Chain | None,
    rng: np.random.Generator,
    over: Callable[[], bool],
) -> Chain | None:
    """Local search: the order for latency, the cuts for throughput."""
    if chain is None:
        return None
    place = {int(name): index for index, name in enumerate(costs.names)}
    if any(share.node not in place for share in chain):
        return chain
    order = [place[share.node] for share in chain]
    limit_s = evaluate(costs.problem, chain).bottleneck_s
    other = (
        fitted(costs, order, limit_s)
        if weight
        else ordered(costs, polish(costs, order, KICKS, rng, over))
    )
    both = [chain, other] if other else [chain]
    return min(both, key=lambda one: evaluate(costs.problem, one).value_s(weight))


def _matter(costs: Costs, known: list[Chain]) -> Costs:
    """The nodes of known chains, and those with the quickest blocks, their links counted."""
    if costs.nodes <= TAKING_PART:
        return costs
    into, out = costs.cheapest_links()
    rank = costs.segment[:, :, 0].min(axis=0) + into + out
    used = {share.node for chain in known for share in chain}
    rank[np.isin(costs.names, list(used))] = -inf
    return costs.among(np.sort(rank.argsort(kind="stable")[: max(TAKING_PART, len(used))]))


def _seeds(costs: Costs, known: list[Chain], bound_s: float) -> list[Floats]:
    """Known chains' orders with their limits, the order by speed, and by nearest neighbour."""
    count = costs.nodes
    speed = np.array([costs.problem.nodes[name].speed for name in listed(costs.names)])
    near: list[int] = []
    hop = costs.links(1)[1].copy() if costs.blocks > 1 else np.zeros((count, count))
    at = int(costs.ends(first=True)[1].argmin())
    for _ in range(count):
        near.append(at)
        hop[at] = inf
        at = int(hop[:, at].argmin())
    loose = [(np.argsort(-speed), 0.5), (np.array(near), 0.5)]
    place = {int(name): index for index, name in enumerate(costs.names)}
    for chain in known:
        order = [place[share.node] for share in chain if share.node in place]
        order += [node for node in range(count) if node not in set(order)]
        ratio = evaluate(costs.problem, chain).bottleneck_s * (1 + 1e-6) / bound_s
        key = np.log(max(1.0, min(ratio, LOOSEST))) / np.log(LOOSEST)
        loose.append((np.array(order), float(key)))
    seeds: list[Floats] = []
    for order, key in loose:
        keys = np.empty(count + 1)
        keys[order] = (np.arange(count) + 0.5) / count
        keys[-1] = key
        seeds.append(keys)
    return seeds
