"""SliceGraph (PAPER section 2): an order in which ops can run, cut into parts, a node for each.

Kahn's algorithm gives the order: among ops whose producers are done, the one with the least key is
next. Parts of an order are acyclic among each other whatever the graph. The cuts are the best by
dynamic programming, `D[r] = min over l of max(D[l], f(order[l:r], node))`, one node after the other
in a given order, each of which may be left out. Ours: the order of the nodes, as they are unequal;
for latency a sum in place of the maximum, all parts one after the other. What a part sends counts
at a usual rate of its node, as the partners are not known yet: `evaluate_graph` judges.

O(E + L^2) for the table of what parts send, and O(n L^2) for the cuts of L ops to n nodes.
"""

from __future__ import annotations

import heapq
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shardline.partition.costs import listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shardline.partition.dag import GraphProblem

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

__all__ = ["Machines", "Parts", "cut", "kahn"]


def kahn(graph: GraphProblem, keys: Sequence[float]) -> list[int]:
    """The ops in an order in which they can run, by the least key among those that can."""
    waiting = [len(producers) for producers in graph.producers]
    ready = [(keys[op], op) for op, count in enumerate(waiting) if not count]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        _, op = heapq.heappop(ready)
        order.append(op)
        for reader in graph.readers[op]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, (keys[reader], reader))
    return order


class Parts(NamedTuple):
    """What a part [l, r) of an order holds and sends, [l, r], nil where l >= r."""

    work_s: Floats
    parameters: Floats
    cache: Floats
    read: Floats
    """Bytes from other nodes."""
    written: Floats
    """Bytes to other nodes, once for all of them."""
    given: Floats
    """Bytes from the caller."""
    returned: Floats
    """Bytes to the caller."""
    lowest: Ints
    """The least and the highest index of an op, for nodes that may hold only some."""
    highest: Ints

    @classmethod
    def of(cls, graph: GraphProblem, order: Sequence[int]) -> Parts:
        """The table of an order."""
        problem, count = graph.problem, len(order)
        place = {op: at for at, op in enumerate(order)}
        blocks = [problem.blocks[op] for op in order]
        read, written, given, returned = np.zeros((4, count + 2, count + 2))
        for at, op in enumerate(order):
            size = problem.blocks[op].output_bytes
            readers = sorted(place[reader] for reader in graph.readers[op])
            if readers:  # in parts with l <= at < r <= last
                _add(written, (0, at), (at + 1, readers[-1]), size)
            else:
                _add(returned, (0, at), (at + 1, count), size)
            for before, reader in zip([at, *readers], readers, strict=False):
                _add(read, (before + 1, reader), (reader + 1, count), size)
        sources = sorted(place[op] for op, they in enumerate(graph.producers) if not they)
        for before, source in zip([-1, *sources], sources, strict=False):
            _add(given, (before + 1, source), (source + 1, count), problem.input_bytes)

        def between(values: list[float]) -> Floats:
            total = np.concatenate([[0.0], np.cumsum(values)])
            return total - total[:, None]

        low, high = np.full((count + 1, count + 1), count), np.full((count + 1, count + 1), -1)
        for start in range(count):
            low[start, start + 1 :] = np.minimum.accumulate(order[start:])
            high[start, start + 1 :] = np.maximum.accumulate(order[start:])
        return cls(
            work_s=between([block.work_s for block in blocks]),
            parameters=between([block.parameter_bytes for block in blocks]),
            cache=between([block.cache_bytes for block in blocks]),
            read=_summed(read),
            written=_summed(written),
            given=_summed(given),
            returned=_summed(returned),
            lowest=low,
            highest=high,
        )


def _add(table: Floats, lows: tuple[int, int], highs: tuple[int, int], size: int) -> None:
    """Let `_summed` add the size where l and r are within these limits, both ends included."""
    table[lows[0], highs[0]] += size
    table[lows[1] + 1, highs[0]] -= size
    table[lows[0], highs[1] + 1] -= size
    table[lows[1] + 1, highs[1] + 1] += size


def _summed(table: Floats) -> Floats:
    return table.cumsum(0).cumsum(1)[:-1, :-1]


class Machines:
    """What parts cost on each node, given usual rates; `partners` are the nodes that take part."""

    def __init__(self, graph: GraphProblem, partners: Sequence[int] | None = None) -> None:
        self.problem = problem = graph.problem
        count = len(problem.nodes)
        others = np.array(partners or range(count), dtype=np.int64)
        with np.errstate(divide="ignore"):
            per_byte = 1 / problem.bytes_per_s
        self.given, self.returned = per_byte[count], per_byte[:, count]
        self.into, self.out, self.delay_s = np.zeros((3, count))
        for node in range(count):
            they = others[others != node]
            if not len(they):
                continue
            self.into[node] = _usual(per_byte[they, node])
            self.out[node] = _usual(per_byte[node, they])
            self.delay_s[node] = _usual(problem.delay_s[they, node])

    def seconds(self, parts: Parts, node: int) -> Floats:
        """Of each part [l, r] on this node; inf where it cannot be, and where l >= r."""
        machine = self.problem.nodes[node]
        over = parts.parameters + parts.cache - machine.memory_bytes
        seconds: Floats = machine.overhead_s + parts.work_s / machine.speed
        seconds += parts.read * self.into[node] + parts.written * self.out[node]
        for size, per_byte in ((parts.given, self.given), (parts.returned, self.returned)):
            rate = float(per_byte[node])
            seconds += size * rate if rate < inf else np.where(size > 0, inf, 0.0)
        if machine.stream_bytes_per_s:
            seconds += np.maximum(over, 0) / machine.stream_bytes_per_s
            seconds[parts.cache > machine.memory_bytes] = inf
        else:
            seconds[over > 0] = inf
        held = machine.holds
        if held:
            seconds[(parts.lowest < held.start) | (parts.highest >= held.stop)] = inf
        seconds[np.tri(len(seconds), dtype=np.bool_)] = inf
        return seconds


def _usual(values: Floats) -> float:
    """The mean of what there is."""
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else 0.0


def cut(  # noqa: PLR0913 - an order, its parts, their nodes, and how they count
    order: Sequence[int],
    parts: Parts,
    machines: Machines,
    nodes: Sequence[int],
    *,
    weight: float,
    limit_s: float = inf,
) -> tuple[int, ...] | None:
    """The node of each op by the best cuts, nodes taken in this order; None if nothing fits.

    With weight 1 the dearest part is least; otherwise the sum of all, none dearer than the limit.
    """
    count = len(order)
    best = np.full(count + 1, inf)
    best[0] = 0.0
    froms: list[Ints] = []
    for node in nodes:
        seconds = machines.seconds(parts, node)
        if weight == 1:
            reached = np.maximum(best[:, None], seconds)
        else:
            reached = best[:, None] + seconds + machines.delay_s[node]
            reached[seconds > limit_s] = inf
        start = reached.argmin(axis=0)
        values = reached[start, np.arange(count + 1)]
        better = values < best
        froms.append(np.where(better, start, -1))
        best = np.where(better, values, best)
    if best[count] == inf:
        return None
    placing = [0] * count
    stop = count
    for node, start in zip(reversed(nodes), reversed(froms), strict=True):
        first = int(start[stop])
        if first >= 0:
            for op in order[first:stop]:
                placing[op] = node
            stop = first
    return tuple(placing)


def rank(values: Floats) -> list[int]:
    """The places in order of their values."""
    return listed(values.argsort(kind="stable"))
