"""Local search for graphs of ops, under real links: ops go to other nodes, nodes are swapped.

Where the slowest stage counts, the next slowest decide between equals, which crosses plateaus. From
where no move helps, some random ones are made (kicks), and the search goes on from there.
"""

from __future__ import annotations

from itertools import combinations
from math import inf
from typing import TYPE_CHECKING

from shardline.partition.dag import evaluate_graph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

    from shardline.partition.dag import GraphProblem

    Placing = tuple[int, ...]
    Score = tuple[float, ...]

__all__ = ["polished"]

CLOSE = 1e-12
KICKS = 40
KICK_MOVES = 3


def polished(
    graph: GraphProblem,
    placing: Placing,
    weight: float,
    rng: np.random.Generator,
    over: Callable[[], bool],
) -> Placing:
    """A placing that no single move betters, unless the time is over; never a worse one."""
    best, score = _settled(graph, placing, weight, over)
    for _ in range(KICKS):
        if over():
            break
        start = best
        for _ in range(KICK_MOVES):
            moves = list(_moved(graph, start, int(rng.integers(len(best)))))
            moved = moves[int(rng.integers(len(moves)))] if moves else start
            start = moved if _score(graph, moved, weight)[0] < inf else start
        tried, tried_score = _settled(graph, start, weight, over)
        if tried_score < score:
            best, score = tried, tried_score
    return best


def _settled(
    graph: GraphProblem, placing: Placing, weight: float, over: Callable[[], bool]
) -> tuple[Placing, Score]:
    """Take any move that helps until none does."""
    best, score = placing, _score(graph, placing, weight)
    before = None
    while best != before:
        before = best
        for op in range(-1, len(placing)):  # nodes as wholes, then op by op
            near = weight == 1
            moves = _swapped(graph, best) if op < 0 else _moved(graph, best, op, near=near)
            for moved in moves:
                if over():
                    return best, score
                tried = _score(graph, moved, weight)
                if tried < score:
                    best, score = moved, tried
                    break
    return best, score


def _score(graph: GraphProblem, placing: Placing, weight: float) -> Score:
    try:
        figures = evaluate_graph(graph, placing)
    except ValueError:  # nodes that wait for each other: worse than any that cannot be
        return (inf,) * (len(graph.problem.nodes) + 2)
    value_s = figures.value_s(weight) * (1 - CLOSE)
    return (value_s, *sorted(figures.stage_s, reverse=True)) if weight else (value_s,)


def _swapped(graph: GraphProblem, placing: Placing) -> Iterator[Placing]:
    """Two nodes change their ops, one of which may have none."""
    for one, other in combinations(range(len(graph.problem.nodes)), 2):
        if one in placing or other in placing:
            change = {one: other, other: one}
            yield tuple(change.get(node, node) for node in placing)


def _moved(
    graph: GraphProblem, placing: Placing, op: int, *, near: bool = False
) -> Iterator[Placing]:
    """An op goes to another node, alone or with all before or after it on its node."""
    node = placing[op]
    others = {placing[one] for one in (*graph.readers[op], *graph.producers[op])}
    if not near:
        others = set(range(len(graph.problem.nodes)))
    for other in sorted(others - {node}):
        yield (*placing[:op], other, *placing[op + 1 :])
        for tail in (True, False):
            yield tuple(
                other if at == node and (index >= op if tail else index <= op) else at
                for index, at in enumerate(placing)
            )
