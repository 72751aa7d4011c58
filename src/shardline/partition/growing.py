"""Chains for throughput: at a limit on all stages, grow the one that has room for most blocks.

At a limit, a place in the chain (a node between two others) has room for a number of blocks, which
the node's memory, speed and the two links set. A chain is found if these sum up to the model's
blocks. It is grown by the best insertion, over and over; then, again and again, a part of it is
taken out and grown anew, and the result kept if it is no worse. The limit goes down as chains are
found, and up when the tries are used up. Ours; the idea (ruin and recreate) is Schrimpf's.

Rooms are counted in blocks of the mean cost; `fitted` then cuts the chain for the true ones.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import numpy as np

from shardline.partition.bounds import least_bottleneck_s, least_stages
from shardline.partition.problem import Share, evaluate

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from shardline.partition.costs import Costs

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Chain = tuple[Share, ...]
    _Grown = tuple[bool, list[int]]

__all__ = ["fitted", "grow", "grown_at"]

TRIES = (4, 60, 300)
"""Parts taken out and grown anew at one limit before it is given up: for a first chain, while the
limit is bisected, and when that is done and begins again."""
RESTARTS = 4
"""Times that the bisection begins again; together with TRIES this ends a search without a clock."""
SPARE_MAX = 6
"""Where blocks differ, room asked for beyond their number when they cannot be cut to fit it."""
TAKEN_MAX = 12
FINE = 2048
"""Steps in which what a limit leaves to a node is counted; rounded down, so rooms are safe."""
LINKS_WEIGHT = 0.4
"""Against room: of two nodes with as much room, the one with quicker links."""
NO_ROOM = -1e6
FAR = 1000 * FINE
CLOSE = 2e-4
"""Relative; nearer than this the bisection of the limit ends."""
CLOSE_ENOUGH = 0.02
"""Likewise, where an answer is wanted at once."""
FACTOR_MAX = 1e6


def grow(
    costs: Costs, seed: int, over: Callable[[], bool], start: Chain | None = None
) -> Chain | None:
    """The best chain found for throughput; None if there is none. `over` says when to stop."""
    rng = np.random.default_rng(seed)
    bound_s = lower_s = least_bottleneck_s(costs)
    if bound_s == inf:
        return start  # some block can be nowhere, or nobody is reached
    best, chain = start, [share.node for share in start or ()]
    upper_s = evaluate(costs.problem, start).bottleneck_s if start else inf
    factor, patience, restarts = 1.01, 0 if best is None else 1, 0
    stages = least_stages(costs)[:, 0]
    uneven = len(set(costs.problem.blocks)) > 1
    while not over() and upper_s > bound_s * (1 + CLOSE):
        limit_s = lower_s * factor if best is None else (lower_s + upper_s) / 2
        garden = _Garden(costs, np.flatnonzero(stages <= limit_s), limit_s, rng)
        found: Chain | None = None
        for spare in range(SPARE_MAX if uneven else 1):
            reached, chain = garden.grown(chain, costs.blocks + spare, TRIES[patience], over)
            found = fitted(costs, chain, limit_s) if reached else None
            if found or not reached:
                break
        if found:
            best = found
            upper_s = min(evaluate(costs.problem, found).bottleneck_s, limit_s)
            patience = max(patience, 1)
        elif best is None:
            factor = 1 + 1.7 * (factor - 1)
            if factor > FACTOR_MAX:
                return None
        else:
            lower_s = limit_s
        if best and upper_s < lower_s * (1 + CLOSE):
            lower_s, patience, restarts = (bound_s + 3 * upper_s) / 4, 2, restarts + 1
            if restarts > RESTARTS:
                break
    return best


def grown_at(
    costs: Costs, start: list[int], limit_s: float, tries: int, rng: np.random.Generator
) -> Chain | None:
    """A chain within this limit, grown from these nodes or else from none; None if so many tries
    find none."""
    useful = np.flatnonzero(least_stages(costs)[:, 0] <= limit_s)
    if not len(useful):
        return None
    garden = _Garden(costs, useful, limit_s, rng)
    uneven = len(set(costs.problem.blocks)) > 1
    for known in (start, []):
        chain = known
        for spare in range(SPARE_MAX if uneven else 1):
            reached, chain = garden.grown(chain, costs.blocks + spare, tries, lambda: False)
            found = fitted(costs, chain, limit_s, CLOSE_ENOUGH) if reached else None
            if found:
                return found
            if not reached:
                break
    return None


class _Garden:
    """One limit: the rooms of places, and the chain that grows. Places are numbered as `useful`
    has them; the caller comes last, has no room and takes no time."""

    def __init__(
        self, costs: Costs, useful: Ints, limit_s: float, rng: np.random.Generator
    ) -> None:
        self.blocks, self.useful, self.rng = costs.blocks, useful, rng
        count = self.caller = len(useful)
        # Links in steps of the limit, [from, to], rounded up; more than FINE is no link.
        link = np.full((count + 1, count + 1), inf)
        cuts = costs.distinct_cuts()
        if cuts:
            links = np.mean([costs.links(cut)[0] for cut in cuts], axis=0)
            link[:count, :count] = links[np.ix_(useful, useful)].T
        link[count, :count] = costs.ends(first=True)[0][useful]
        link[:count, count] = costs.ends(first=False)[0][useful]
        self.link: Ints = np.ceil(np.minimum(link / limit_s, 2) * FINE).astype(np.int64)
        self.link[count, count] = 0
        self.rooms = _rooms(costs, useful, limit_s)

    def grown(self, start: list[int], blocks: int, tries: int, over: Callable[[], bool]) -> _Grown:
        """Whether the chain has room for so many blocks, and the chain; nodes as in `costs`."""
        self.blocks = blocks
        place = {int(node): index for index, node in enumerate(self.useful)}
        chain = [place[node] for node in start if node in place]
        chains = [self._filled(self._pruned(chain))]
        if not start:
            chains.append(self._filled(self._pruned(self._nearest())))
        chain = max(chains, key=lambda chain: sum(self._room(chain)))
        room = sum(self._room(chain))
        for _ in range(tries):
            if room >= self.blocks or over():
                break
            tried = self._filled(self._thinned(chain))
            found = sum(self._room(tried))
            if found >= room:
                chain, room = tried, found
        if room >= self.blocks:
            chain = self._trimmed(chain)
        reached = room >= self.blocks >= len(chain)
        return reached, [int(self.useful[node]) for node in chain]

    def _nearest(self) -> list[int]:
        """All nodes, each followed by the nearest that is left: clusters stay together."""
        left = np.zeros(self.caller, dtype=np.int64)
        order: list[int] = []
        last = self.caller
        for _ in range(self.caller):
            last = int((self.link[last, : self.caller] + left).argmin())
            left[last] = FAR
            order.append(last)
        return order

    def _room(self, chain: list[int]) -> list[int]:
        """How many blocks each place has room for."""
        ends = np.array([self.caller, *chain, self.caller])
        hops = self.link[ends[:-1], ends[1:]]
        left = np.maximum(FINE - hops[:-1] - hops[1:], -1)
        found: list[int] = self.rooms[ends[1:-1], left].tolist()
        return found

    def _pruned(self, chain: list[int]) -> list[int]:
        """Without the places that have no room left at this limit."""
        while chain:
            rooms = self._room(chain)
            if min(rooms) > 0:
                break
            del chain[rooms.index(0)]
        return chain

    def _trimmed(self, chain: list[int]) -> list[int]:
        """Without places that the blocks do not need, those with the least room first."""
        started = chain
        rooms = self._room(chain)
        for at in sorted(range(len(chain)), key=rooms.__getitem__):
            left = [other for other in chain if other != started[at]]
            kept = self._room(left)
            if left and min(kept) > 0 and sum(kept) >= self.blocks:
                chain = left
        return chain

    def _thinned(self, chain: list[int]) -> list[int]:
        """A random run, or random single nodes, taken out; or a run turned round."""
        size = len(chain)
        if size == 0:
            return []
        taken = int(self.rng.integers(1, min(TAKEN_MAX, size) + 1))
        kind = self.rng.integers(3)
        at = int(self.rng.integers(size - taken + 1))
        if kind == 0:
            left = chain[:at] + chain[at + taken :]
        elif kind == 1:
            gone = set(self.rng.choice(size, taken, replace=False).tolist())
            left = [node for index, node in enumerate(chain) if index not in gone]
        else:
            left = chain[:at] + chain[at : at + taken][::-1] + chain[at + taken :]
        return self._pruned(left)

    def _filled(self, chain: list[int]) -> list[int]:
        """Insert the best node at its best place until none adds room."""
        chain = list(chain)
        room = sum(self._room(chain))
        gains = self._gains(chain, 0, len(chain) + 1)
        taken = np.zeros(self.caller)
        taken[chain] = NO_ROOM
        while room < self.blocks:
            table = gains + taken
            slot, node = divmod(int(table.argmax()), self.caller)
            if table[slot, node] <= 0:
                break
            chain.insert(slot, node)
            taken[node] = NO_ROOM
            gains = np.insert(gains, slot, 0.0, axis=0)
            first, last = max(0, slot - 1), min(len(chain) + 1, slot + 3)
            gains[first:last] = self._gains(chain, first, last)
            room = sum(self._room(chain))
        return chain

    def _gains(self, chain: list[int], first: int, last: int) -> Floats:
        """The room that each node would add at slots first to last, [slot, node]."""
        none = self.caller
        ends = np.array([none, none, *chain, none, none])
        slots = np.arange(first, last)
        before2, before, after, after2 = (ends[slots + shift] for shift in range(4))
        into, out = self.link[before, :none], self.link[:none, after].T
        own = self.rooms[np.arange(none), np.maximum(FINE - into - out, -1)]
        free = FINE - self.link[before2, before]
        now = FINE - self.link[after, after2]
        direct = self.link[before, after]
        gain = own - LINKS_WEIGHT / FINE * (into + out) + 0.01 * self.rng.random(own.shape)
        bad = own < 1
        for end, left, way in ((before, free, into), (after, now, out)):
            had = self.rooms[end, np.maximum(left - direct, -1)]
            has = self.rooms[end[:, None], np.maximum(left[:, None] - way, -1)]
            gain += has - had[:, None]
            bad |= (has < 1) & (end != none)[:, None]
        return np.where(bad, NO_ROOM, np.where(gain > 0, gain, NO_ROOM))


def _rooms(costs: Costs, useful: Ints, limit_s: float) -> Ints:
    """How many blocks of the mean cost fit by steps left of the limit, [place, steps]; -1 is none.

    The last column is what index -1 finds.
    """
    possible = np.isfinite(costs.segment)
    sums = np.where(possible, costs.segment, 0.0).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        usual = np.where(possible.any(axis=0), sums / possible.sum(axis=0), inf)[useful]
    grid = np.arange(FINE + 1) * limit_s / FINE
    table = np.zeros((len(useful) + 1, FINE + 2), dtype=np.int64)
    for place, times in enumerate(usual):
        table[place, : FINE + 1] = times.searchsorted(grid, side="right")
    return table


def fitted(costs: Costs, chain: list[int], limit_s: float, close: float = 1e-4) -> Chain | None:
    """Cut the blocks for these nodes in this order, all used, as evenly as the limit needs.

    The limit is then bisected down to what this order allows, as closely as is said.
    """
    found = _cut(costs, chain, limit_s)
    if found is None or not all(share.start < share.stop for share in found):
        return None
    lower_s, upper_s = 0.0, min(limit_s, evaluate(costs.problem, found).bottleneck_s)
    while upper_s - lower_s > close * upper_s:
        middle_s = max((lower_s + upper_s) / 2, 0.99 * upper_s)
        better = _cut(costs, chain, middle_s)
        if better is None or not all(share.start < share.stop for share in better):
            lower_s = middle_s
        else:
            found, upper_s = better, min(middle_s, evaluate(costs.problem, better).bottleneck_s)
    return found


def _cut(costs: Costs, chain: list[int], limit_s: float) -> Chain | None:
    """Cuts within the limit, exact for this order: the least last stage for each cut is kept."""
    blocks, band = costs.blocks, costs.band
    steps: list[tuple[Floats, Floats]] = []
    entered = np.full(blocks, inf)
    entered[0] = costs.ends(first=True)[0][chain[0]]
    lengths: Ints = np.arange(band)
    for place, node in enumerate(chain):
        stage = np.full((blocks, blocks + 1), inf)
        starts = np.flatnonzero(np.isfinite(entered))
        if not len(starts):
            return None
        stops: Ints = starts[:, None] + 1 + lengths
        inside = stops <= blocks
        values = entered[starts, None] + costs.segment[starts, node]
        stage[np.broadcast_to(starts[:, None], stops.shape)[inside], stops[inside]] = values[inside]
        done = stage.min(axis=0)
        steps.append((stage, done))
        if place == len(chain) - 1:
            break
        sent = costs.transfers(node, chain[place + 1])
        entered = np.where(done[:blocks] + sent <= limit_s, sent, inf)
    if not steps[-1][1][blocks] + costs.ends(first=False)[0][chain[-1]] <= limit_s:
        return None
    shares: list[Share] = []
    stop = blocks
    for node, (stage, _) in zip(reversed(chain), reversed(steps), strict=True):
        start = int(stage[:, stop].argmin())
        shares.append(Share(int(costs.names[node]), start, stop))
        stop = start
    return tuple(reversed(shares))
