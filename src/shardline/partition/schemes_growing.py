"""For throughput, a chain at once: from a scheme's nodes and its limit, towards the best limit.

`growing` looks for the best chain at a limit with many tries. Here there are few, so a limit that
is not kept is not tried anew: how well the chain that was grown for it would do is known at once,
and the next limit is between the two. The chain stays and grows on from one limit to the next.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import numpy as np

from shardline.partition.bounds import least_stages
from shardline.partition.growing import NO_ROOM, Garden, evened, fitted
from shardline.partition.problem import evaluate

if TYPE_CHECKING:
    from shardline.partition.costs import Costs
    from shardline.partition.problem import Share

    Chain = tuple[Share, ...]

__all__ = ["grown_at"]

LOOKS = 5
"""Limits, from the first that a chain was found for."""
CLOSE = 0.005
"""Relative; nearer than this to a limit that was not kept is good enough."""
WIDER, WIDER_MAX = 1.05, 1e6
"""If there is no chain at all, the limit goes up by this and then by its square, and so on."""
UNEVEN_CLOSE, UNEVEN_SPARE = 0.02, 1.05
"""Where blocks differ: how closely they are cut, and what is added to the limit for the mean."""
ANEW_NODES_MAX = 64
"""A chain is also grown from none up to so many nodes: the more there are, the less it gives."""
STRIDE = 0.6
"""What adds at most so much less room than the best does is inserted with it."""


def grown_at(
    costs: Costs,
    start: list[int],
    limits_s: tuple[float, float],
    tries: int,
    rng: np.random.Generator,
) -> Chain | None:
    """A chain grown from these nodes, from all or from none, with so many tries at each limit.

    Limits are one that no chain can keep below and the first to be tried. None if no chain can
    hold the model.
    """
    stages = least_stages(costs)[:, 0]
    best: Chain | None = None
    (lower_s, limit_s), upper_s, wider, looks = limits_s, inf, WIDER, 0
    chain = start
    while looks < LOOKS and wider < WIDER_MAX:
        useful = np.flatnonzero(stages <= limit_s)
        if len(useful):
            plot = _Plot(costs, useful, limit_s, rng)
            reached, chain = plot.sown(chain, tries, anew=best is None)
            lower_s = lower_s if reached else max(lower_s, limit_s)
            found, found_s = _fitted(costs, chain)
            if found and found_s < upper_s:
                best, upper_s = found, found_s
        if best is None:
            limit_s, wider = limit_s * wider, wider**2
            continue
        if upper_s < lower_s * (1 + CLOSE):
            break
        limit_s, looks = (lower_s + upper_s) / 2, looks + 1
    return best


def _fitted(costs: Costs, chain: list[int]) -> tuple[Chain | None, float]:
    """The blocks cut for these nodes, and the slowest stage."""
    limit_s = evened(costs, chain)[0]
    if costs.alike:
        return fitted(costs, chain, limit_s), limit_s
    found = fitted(costs, chain, UNEVEN_SPARE * limit_s, UNEVEN_CLOSE) if limit_s < inf else None
    return found, evaluate(costs.problem, found).bottleneck_s if found else inf


class _Plot(Garden):
    """A garden that is sown before it is grown."""

    def sown(self, start: list[int], tries: int, *, anew: bool) -> tuple[bool, list[int]]:
        """Like `grown`; anew, also from none and from all."""
        chains = [self._pruned(self._placed(start))]
        if anew:
            chains.append(self._pruned(self._nearest()))
            chains += [[]] if self.caller <= ANEW_NODES_MAX else []
        chains = [self._filled(self._strewn(chain)) for chain in chains]
        return self._best(chains, tries, lambda: False)

    def _strewn(self, chain: list[int]) -> list[int]:
        """With many nodes at a time, each at its best place but none beside another."""
        while (missing := self.blocks - self._total(chain)) > 0:
            gains = self._gains(chain, 0, len(chain) + 1)
            gains[:, chain] = NO_ROOM
            slots = gains.argmax(axis=0)
            best = gains[slots, np.arange(self.caller)]
            least = max(0.0, float(best.max()) - STRIDE)
            chosen: dict[int, int] = {}
            for node in (-best).argsort().tolist():
                if best[node] <= least or missing <= 0:
                    break
                slot = int(slots[node])
                if chosen.keys().isdisjoint((slot - 1, slot, slot + 1)):
                    chosen[slot] = node
                    missing -= int(best[node])
            if not chosen:
                break
            chain = list(chain)
            for slot in sorted(chosen, reverse=True):
                chain.insert(slot, chosen[slot])
        return chain
