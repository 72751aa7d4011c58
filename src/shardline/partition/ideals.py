"""Dynamic programming over downsets: what a graph of ops costs where all links are alike.

A placing with an acyclic quotient is a row of downsets, each a part more than the one before.
`table[S, J]`: the least dearest part with the downset J done by the nodes S. What a part sends is
counted at its node's best links, and once for all readers (as in the paper), so the value is a
lower bound of the slowest stage, and the best itself where links are alike and no tensor is read on
two other nodes. O(2^n n D^2) time and O(2^n D) memory for n nodes and D downsets.

A chain has as many downsets as ops, k equal branches of m ops have (m + 1)^k.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardline.partition.dag import GraphProblem

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

__all__ = ["DOWNSETS_MAX", "Sliced", "downsets", "sliced"]

DOWNSETS_MAX = 700
STEPS_MAX = 3e8
"""2^n n D^2 at most: a second or two."""


class Sliced(NamedTuple):
    """The best placing as far as the table knows, and its slowest stage: a lower bound."""

    placing: tuple[int, ...]
    bound_s: float


def downsets(graph: GraphProblem, most: int = DOWNSETS_MAX) -> list[int] | None:
    """All sets of ops that hold their ops' producers, as bits, by size; None if more than most."""
    needs = [sum(1 << producer for producer in row) for row in graph.producers]
    layer, found = {0}, [0]
    while layer:
        layer = {
            done | 1 << op
            for done in layer
            for op, need in enumerate(needs)
            if not done >> op & 1 and need & ~done == 0
        }
        found += sorted(layer)
        if len(found) > most:
            return None
    return found


def sliced(graph: GraphProblem) -> Sliced | None:
    """The least slowest stage at best links; None if the table is too large, or nothing fits."""
    nodes = len(graph.problem.nodes)
    most = min(DOWNSETS_MAX, int((STEPS_MAX / (2**nodes * nodes)) ** 0.5))
    found = downsets(graph, most) if most else None
    if found is None:
        return None
    count, ops = len(found), len(graph.problem.blocks)
    inside = np.array([[done >> op & 1 for op in range(ops)] for done in found], dtype=np.bool_)
    seconds = _parts(graph, inside)
    table = np.full((2**nodes, count), inf)
    table[:, 0] = 0.0
    for chosen in range(1, 2**nodes):
        for node in range(nodes):
            if chosen >> node & 1:
                reached = np.maximum(table[chosen ^ 1 << node, :, None], seconds[node])
                np.minimum(table[chosen], reached.min(axis=0), out=table[chosen])
    chosen, at, bound_s = 2**nodes - 1, count - 1, float(table[-1, -1])
    if bound_s == inf:
        return None
    placing = [0] * ops
    while at:
        node, start = _last(table, seconds, chosen, at)
        for op in np.flatnonzero(inside[at] & ~inside[start]).tolist():
            placing[op] = node
        chosen, at = chosen ^ 1 << node, start
    return Sliced(tuple(placing), bound_s)


def _last(table: Floats, seconds: Floats, chosen: int, at: int) -> tuple[int, int]:
    """The node that finished the downset `at`, and the one it started from."""
    best = inf, 0, 0
    for node in range(len(seconds)):
        if chosen >> node & 1:
            values = np.maximum(table[chosen ^ 1 << node], seconds[node, :, at])
            start = int(values.argmin())
            best = min(best, (float(values[start]), node, start))
    return best[1:]


def _parts(graph: GraphProblem, inside: Bools) -> Floats:
    """[node, from, to] downset: the part's seconds, inf where `to` is not larger than `from`."""
    problem, count = graph.problem, len(inside)
    blocks = problem.blocks
    larger: Bools = (inside.astype(np.float32) @ (~inside).T.astype(np.float32)) == 0
    np.fill_diagonal(larger, val=False)

    def held(name: str) -> Floats:
        totals = inside @ np.array([getattr(block, name) for block in blocks], dtype=np.float64)
        return totals - totals[:, None]

    read, written, returned = np.zeros((3, count, count))
    for op, readers in enumerate(graph.readers):
        size = blocks[op].output_bytes
        new: Bools = ~inside[:, op, None] & inside[:, op]
        if readers:
            done = inside[:, list(readers)].sum(axis=1)
            written += size * (new & (done < len(readers)))
            read += size * (inside[:, op, None] & (done > done[:, None]))
        else:
            returned += size * new
    sources = [op for op, they in enumerate(graph.producers) if not they]
    begun = inside[:, sources].sum(axis=1)
    given = problem.input_bytes * (begun > begun[:, None])
    work, parameters, cache = map(held, ("work_s", "parameter_bytes", "cache_bytes"))
    per_byte, nodes = _per_byte(graph), len(problem.nodes)
    inner = per_byte[:nodes, :nodes].copy()
    np.fill_diagonal(inner, inf)
    seconds = np.full((nodes, count, count), inf)
    for index, node in enumerate(problem.nodes):
        own = node.overhead_s + work / node.speed
        own = own + _sent(read, inner[:, index].min()) + _sent(written, inner[index].min())
        own += _sent(given, per_byte[nodes, index]) + _sent(returned, per_byte[index, nodes])
        over = parameters + cache - node.memory_bytes
        streamed = over / node.stream_bytes_per_s if node.stream_bytes_per_s else inf
        streamed = np.where(cache > node.memory_bytes, inf, streamed)
        own = np.where(over > 0, own + streamed, own)
        if node.holds:
            others = np.ones(len(blocks), dtype=np.bool_)
            others[node.holds.start : node.holds.stop] = False
            foreign = (inside & others).sum(axis=1)
            own[foreign != foreign[:, None]] = inf
        seconds[index] = np.where(larger, own, inf)
    return seconds


def _per_byte(graph: GraphProblem) -> Floats:
    with np.errstate(divide="ignore"):
        return 1 / graph.problem.bytes_per_s


def _sent(size: Floats, per_byte: float) -> Floats:
    """Seconds; nothing takes no time even where there is no link: it may be nothing to send."""
    return size * per_byte if per_byte < inf else np.where(size > 0, inf, 0.0)
