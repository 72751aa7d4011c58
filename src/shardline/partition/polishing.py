"""Local search for latency: better nodes, and a better order, for a chain that is known.

A sequence of nodes is judged by its links and by filling its quickest nodes first, in blocks of
mean cost; all sequences one step away (a node replaced, inserted, removed, or a run turned round)
are judged at once. When none is better, some nodes are changed at random and it goes on from there.
`ordered` then cuts the blocks for the true costs. Ours, of the usual moves for routes.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import numpy as np

from shardline.partition.pricing import threaded

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from shardline.partition.costs import Costs
    from shardline.partition.problem import Share

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Chain = tuple[Share, ...]

__all__ = ["ordered", "polish"]

STEPS_MAX = 60
FAR_S = 1e9


def ordered(costs: Costs, order: list[int], limit_s: float = inf) -> Chain | None:
    """The fastest cuts for these nodes in this order, with skipping; exact without a limit."""
    few = costs.among(order)
    place = np.arange(len(order))
    return threaded(few, np.zeros(len(order)), limit_s, blocked=place[:, None] <= place)


def polish(
    costs: Costs, start: list[int], kicks: int, rng: np.random.Generator, over: Callable[[], bool]
) -> list[int]:
    """A sequence at least as good as `start`; nodes as `costs` has them."""
    judge = _Judge(costs)
    best, best_s = judge.descended(start)
    for _ in range(kicks):
        if over():
            break
        found, found_s = judge.descended(_kicked(best, costs.nodes, rng))
        if found_s < best_s * (1 - 1e-9):
            best, best_s = found, found_s
    return best


def _kicked(chain: list[int], nodes: int, rng: np.random.Generator) -> list[int]:
    """A random run exchanged for random others, as far as there are any."""
    size = len(chain)
    taken = int(rng.integers(1, min(4, size) + 1))
    at = int(rng.integers(size - taken + 1))
    free = np.setdiff1d(np.arange(nodes), chain)
    new = rng.choice(free, min(len(free), taken), replace=False).tolist()
    return chain[:at] + new + chain[at + taken :] if new else chain


class _Judge:
    """The latency of many sequences at once."""

    def __init__(self, costs: Costs) -> None:
        self.nodes, self.blocks = costs.nodes, costs.blocks
        cuts = costs.distinct_cuts()
        hop = np.full((self.nodes, self.nodes), FAR_S)
        if cuts:
            hop = np.mean([costs.links(cut)[1] for cut in cuts], axis=0).T
        self.hop: Floats = np.minimum(hop, FAR_S)
        self.first = np.minimum(costs.ends(first=True)[1], FAR_S)
        self.last = np.minimum(costs.ends(first=False)[1], FAR_S)
        self.room = np.maximum(costs.capacities(), 1)
        usual = costs.usual
        everyone = np.arange(self.nodes)
        self.one = np.minimum(usual[:, 0], FAR_S)
        full = usual[everyone, self.room - 1]
        self.rate = np.where(self.room > 1, (full - self.one) / np.maximum(self.room - 1, 1), 0.0)

    def latencies(self, chains: Ints) -> Floats:
        """Of sequences of one length, [sequence, place]."""
        total = self.first[chains[:, 0]] + self.last[chains[:, -1]] + self.one[chains].sum(axis=1)
        total += self.hop[chains[:, :-1], chains[:, 1:]].sum(axis=1)
        rates, rooms = self.rate[chains], self.room[chains] - 1
        order = rates.argsort(axis=1)
        rates, rooms = np.take_along_axis(rates, order, 1), np.take_along_axis(rooms, order, 1)
        before = rooms.cumsum(axis=1) - rooms
        extra = self.blocks - chains.shape[1]
        filled = np.clip(extra - before, 0, rooms)
        total += (filled * rates).sum(axis=1)
        return total + FAR_S * np.abs(extra - filled.sum(axis=1))

    def descended(self, chain: list[int]) -> tuple[list[int], float]:
        """Step by step to the best neighbour, until none is better."""
        best_s = float(self.latencies(np.array([chain]))[0])
        for _ in range(STEPS_MAX):
            better: Ints | None = None
            for group in self._near(np.array(chain)):
                found = self.latencies(group)
                at = int(found.argmin())
                if found[at] < best_s * (1 - 1e-9):
                    best_s, better = float(found[at]), group[at]
            if better is None:
                break
            chain = better.tolist()
        return chain, best_s

    def _near(self, chain: Ints) -> list[Ints]:
        """All sequences one step away, grouped by length."""
        size, free = len(chain), np.setdiff1d(np.arange(self.nodes), chain)
        groups: list[Ints] = []
        if len(free):
            replaced = np.tile(chain, (size, len(free), 1))
            replaced[np.arange(size), :, np.arange(size)] = free
            groups.append(replaced.reshape(-1, size))
            if size < self.blocks:
                at = np.arange(size + 1)
                spread = chain[np.maximum(at - (at > at[:, None]), 0).clip(max=size - 1)]
                inserted = np.repeat(spread[:, None], len(free), axis=1)
                inserted[np.arange(size + 1), :, np.arange(size + 1)] = free
                groups.append(inserted.reshape(-1, size + 1))
        if size > 1:
            left = np.arange(size - 1)
            groups.append(chain[left + (left >= np.arange(size)[:, None])])
            groups.append(chain[_reordered(size)])
        return groups


def _reordered(size: int) -> Ints:
    """All orders of so many places with one run turned round, or one place moved."""
    at: Ints = np.arange(size)
    low, last = (ends[:, None] for ends in np.triu_indices(size, 1))
    turned = np.where((low <= at) & (at <= last), low + last - at, at)
    place, to = (ends[:, None] for ends in np.nonzero(~np.eye(size, dtype=np.bool_)))
    later = at + ((place <= at) & (at < to))
    moved = np.where(at == to, place, later - ((to < at) & (at <= place)))
    return np.concatenate([turned, moved])
