"""Seeded graphs of ops of three kinds, for tests and the benchmark, on the networks of `families`.

Ops differ in work, parameters and output (log-normal around those of `families`), so the nodes have
room for about twice the model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from shardline.partition.dag import GraphProblem
from shardline.partition.families import make

if TYPE_CHECKING:
    from collections.abc import Callable

    Edges = set[tuple[int, int]]

__all__ = ["GRAPHS", "make_graph"]

WIDEST = 4


def _layered(ops: int, rng: np.random.Generator) -> Edges:
    """Layers of one to four ops; each reads one or two of the layer before, some an older one."""
    edges: Edges = set()
    layer, done = [0], 1
    while done < ops:
        width = min(int(rng.integers(1, WIDEST + 1)), ops - done)
        new = list(range(done, done + width))
        for op in new:
            read = rng.choice(layer, size=min(len(layer), int(rng.integers(1, 3))), replace=False)
            edges |= {(int(producer), op) for producer in read}
            if rng.random() < 0.15:  # noqa: PLR2004 - a skip now and then
                edges.add((int(rng.integers(0, done)), op))
        layer, done = new, done + width
    return edges


def _series_parallel(ops: int, rng: np.random.Generator) -> Edges:
    """Forks of two to four branches of one to three ops, each fork joined before the next."""
    edges: Edges = set()
    joint, done = 0, 1
    while done < ops:
        ends: list[int] = []
        for _ in range(int(rng.integers(2, WIDEST + 1))):
            at = joint
            for _ in range(min(int(rng.integers(1, 4)), ops - done)):
                edges.add((at, done))
                at, done = done, done + 1
            ends.append(at)
        if done < ops:
            edges |= {(end, done) for end in ends}
            joint, done = done, done + 1
    return edges


LAYER = ((0, 1), (1, 2), (1, 3), (1, 4), (2, 5), (3, 5), (4, 5), (0, 6), (5, 6),
         (6, 7), (7, 8), (7, 9), (8, 10), (9, 10), (6, 11), (10, 11))  # fmt: skip
"""In (the sum before), norm, query, key, value, attention, sum, norm, gate, up, product, sum."""


def _transformer(ops: int, _rng: np.random.Generator) -> Edges:
    """Layers with two residuals, three branches and two branches; cut off at so many ops."""
    last = max(max(edge) for edge in LAYER)
    layers = range(0, ops, last)
    edges = {(start + one, start + other) for start in layers for one, other in LAYER}
    return {edge for edge in edges if edge[1] < ops}


GRAPHS: dict[str, Callable[[int, np.random.Generator], Edges]] = {
    "layered": _layered,
    "series-parallel": _series_parallel,
    "transformer": _transformer,
}


def make_graph(kind: str, ops: int, nodes: int, seed: int = 0, family: str = "lan") -> GraphProblem:
    """A graph of this kind on a network of this family; the same arguments give the same one."""
    key: list[int] = [seed, ops, nodes, *kind.encode(), *family.encode()]
    rng = np.random.default_rng(key)
    problem = make(family, nodes, ops, seed)
    work, size, output = rng.lognormal(0, 0.5, (3, ops)).tolist()
    blocks = tuple(
        replace(
            block,
            work_s=block.work_s * more,
            parameter_bytes=int(block.parameter_bytes * larger),
            output_bytes=int(block.output_bytes * wider),
        )
        for block, more, larger, wider in zip(problem.blocks, work, size, output, strict=True)
    )
    return GraphProblem(replace(problem, blocks=blocks), tuple(sorted(GRAPHS[kind](ops, rng))))
