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
from shardline.partition.costs import listed
from shardline.partition.problem import Share, evaluate

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from shardline.partition.costs import Costs

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Chain = tuple[Share, ...]
    _Grown = tuple[bool, list[int]]

__all__ = ["NO_ROOM", "Garden", "evened", "fitted", "grow"]

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
FACTOR_MAX = 1e6
CALLER_ROOM = 1
SIDES = np.array([[0], [1]])


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
        garden = Garden(costs, np.flatnonzero(stages <= limit_s), limit_s, rng)
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


class Garden:
    """One limit: the rooms of places, and the chain that grows. Places are numbered as `useful`
    has them; the caller comes last, takes no time and always has the same room."""

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
        self.link: Ints = np.ceil(np.minimum(link * (FINE / limit_s), 2 * FINE)).astype(np.int64)
        self.link[count, count] = 0
        self.ways: Ints = np.stack([self.link, self.link.T])  # [into or out, other end, place]
        self.rooms = _rooms(costs, useful, limit_s)

    def grown(self, start: list[int], blocks: int, tries: int, over: Callable[[], bool]) -> _Grown:
        """Whether the chain has room for so many blocks, and the chain; nodes as in `costs`."""
        self.blocks = blocks
        chains = [self._filled(self._pruned(self._placed(start)))]
        if not start:
            chains.append(self._filled(self._pruned(self._nearest())))
        return self._best(chains, tries, over)

    def _placed(self, start: list[int]) -> list[int]:
        """These nodes of `costs`, as far as they are useful, as places."""
        place = {node: index for index, node in enumerate(listed(self.useful))}
        return [place[node] for node in start if node in place]

    def _best(self, chains: list[list[int]], tries: int, over: Callable[[], bool]) -> _Grown:
        """Of these chains the roomiest, or a better one after so many tries."""
        chain = max(chains, key=self._total)
        room = self._total(chain)
        for _ in range(tries):
            if room >= self.blocks or over():
                break
            tried = self._filled(self._thinned(chain))
            found = self._total(tried)
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

    def _room(self, chain: list[int]) -> Ints:
        """How many blocks each place has room for."""
        ends = np.array([self.caller, *chain, self.caller])
        hops = self.link[ends[:-1], ends[1:]]
        return self._held(ends[1:-1], FINE - hops[:-1] - hops[1:])

    def _total(self, chain: list[int]) -> int:
        return int(self._room(chain).sum())

    def _pruned(self, chain: list[int]) -> list[int]:
        """Without the places that have no room left at this limit; of neighbours one at a time."""
        while chain:
            none = self._room(chain) == 0
            none[1:] &= ~none[:-1]
            if not none.any():
                break
            chain = [node for node, gone in zip(chain, none.tolist(), strict=True) if not gone]
        return chain

    def _trimmed(self, chain: list[int]) -> list[int]:
        """Without places that the blocks do not need, those with the least room first."""
        while len(chain) > 1:
            none, rooms = self.caller, self._room(chain)
            ends = np.array([none, none, *chain, none, none])
            beside = np.stack([ends[1:-3], ends[3:-1]])
            beyond = np.stack([ends[:-4], ends[4:]])
            skipped = self.link[beside[0], beside[1]]
            has = self._held(beside, FINE - self.ways[SIDES, beyond, beside] - skipped)
            had = np.array([CALLER_ROOM, *rooms.tolist(), CALLER_ROOM])
            lost = rooms - has.sum(axis=0) + had[:-2] + had[2:]
            spare = int(rooms.sum()) - self.blocks
            gone: set[int] = set()
            free = np.flatnonzero((has.min(axis=0) > 0) & (lost <= spare))
            for at in listed(free[rooms[free].argsort(kind="stable")]):
                # Those near each other share neighbours, and so what is lost.
                if lost[at] <= spare and gone.isdisjoint(range(at - 2, at + 3)):
                    gone.add(at)
                    spare -= int(lost[at])
            if not gone or len(gone) == len(chain):
                break
            chain = [node for at, node in enumerate(chain) if at not in gone]
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
        slots = len(chain) + 1
        gains = np.empty((slots + self.caller, self.caller))
        gains[:slots] = self._gains(chain, 0, slots)
        gains[:slots, chain] = NO_ROOM
        while slots <= self.caller and self._total(chain) < self.blocks:
            slot, node = divmod(int(gains[:slots].argmax()), self.caller)
            if gains[slot, node] <= 0:
                break
            chain.insert(slot, node)
            gains[slot + 1 : slots + 1] = gains[slot:slots]
            slots += 1
            gains[:slots, node] = NO_ROOM
            first, last = max(0, slot - 1), min(slots, slot + 3)
            around = self._gains(chain, first, last)
            around[:, chain] = NO_ROOM
            gains[first:last] = around
        return chain

    def _gains(self, chain: list[int], first: int, last: int) -> Floats:
        """The room that each node would add at slots first to last, [slot, node]."""
        none = self.caller
        ends = np.array([none, none, *chain[max(0, first - 2) : last + 1], none, none])
        slots = np.arange(first, last) - max(0, first - 2)
        before2, before, after, after2 = (ends[slots + shift] for shift in range(4))
        beside = np.stack([before, after])
        ways = self.ways[SIDES, beside, :none]
        both = ways[0] + ways[1]
        left = FINE - self.ways[SIDES, [before2, after2], beside]
        had = self._held(beside, left - self.link[before, after])
        has = self._held(beside[:, :, None], left[:, :, None] - ways)
        own = self._held(np.arange(none), FINE - both)
        gain = own - LINKS_WEIGHT / FINE * both + 0.01 * self.rng.random(own.shape)
        gain += (has - had[:, :, None]).sum(axis=0)
        gain[(np.minimum(own, has.min(axis=0)) < 1) | (gain <= 0)] = NO_ROOM
        return gain

    def _held(self, places: Ints, left: Ints) -> Ints:
        """The rooms of places with so many steps left."""
        return self.rooms.take(places * (FINE + 2) + np.maximum(left, -1) + 1)


def _rooms(costs: Costs, useful: Ints, limit_s: float) -> Ints:
    """How many blocks of the mean cost fit by steps left of the limit, [place, steps + 1]; with
    less than none left, none."""
    usual = costs.usual[useful]
    steps = np.ceil(np.minimum(usual / limit_s, 2) * FINE).astype(np.int64) + 1
    place, count = np.nonzero(steps < FINE + 2)
    size = (len(useful) + 1) * (FINE + 2)
    flat = np.bincount(place * (FINE + 2) + steps[place, count], minlength=size)
    table = flat.reshape(-1, FINE + 2).astype(np.int32).cumsum(axis=1, dtype=np.int32)
    table[-1, 1:] = CALLER_ROOM
    return table


def evened(costs: Costs, chain: list[int]) -> tuple[float, Ints]:
    """The least limit at which these nodes have room for blocks of the mean cost, all used; and
    how many each then has. inf and no counts if there is none."""
    counts: Ints = np.ones(len(chain), dtype=np.int64)
    more = costs.blocks - len(chain)
    order: Ints = np.array(chain, dtype=np.int64)
    if not len(chain) or not 0 <= more <= len(chain) * (costs.band - 1):
        return inf, counts[:0]
    ways = [costs.links(cut)[0][order[1:], order[:-1]] for cut in costs.distinct_cuts()]
    between = np.mean(ways, axis=0) if ways else np.zeros(0)
    into = np.append(costs.ends(first=True)[0][order[0]], between)
    out = np.append(between, costs.ends(first=False)[0][order[-1]])
    stages = costs.usual[order] + (into + out)[:, None]
    limit_s = float(stages[:, 0].max())
    if more:
        taken = stages[:, 1:].argpartition(more - 1, axis=None)[:more]
        limit_s = max(limit_s, float(stages[:, 1:].ravel()[taken].max()))
        counts += np.bincount(taken // (costs.band - 1), minlength=len(chain))
    return limit_s, counts if limit_s < inf else counts[:0]


def fitted(costs: Costs, chain: list[int], limit_s: float, close: float = 1e-4) -> Chain | None:
    """Cut the blocks for these nodes in this order, all used, as evenly as the limit needs.

    The limit is then bisected down to what this order allows, as closely as is said; where blocks
    are all alike, that is known at once.
    """
    if costs.alike:
        evened_s, counts = evened(costs, chain)
        stops = counts.cumsum().tolist()
        spans = zip(chain, [0, *stops], stops, strict=False)
        found = tuple(Share(int(costs.names[node]), start, stop) for node, start, stop in spans)
        return found if found and evened_s <= limit_s else None
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
