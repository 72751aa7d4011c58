"""Persistent homology of a network: which parts join when, and which rings there are (PAPER 3).

The paper classifies the network's state by "weighted persistent homology"; which filtration it
means is not known to us. Ours is Vietoris-Rips: two nodes are joined from their distance on (the
weight: a round trip in ms, or the ms that a MiB takes), three from the longest of their three
distances on. A round trip need not be a metric, and Rips asks for none.

H0 is the minimum spanning tree: a bar ends where two parts join. It is exact and cheap here. H1,
the rings, comes from GUDHI; above H1_NODES_MAX nodes it is that of so many landmarks, each as far
from the others as can be.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["H1_NODES_MAX", "Diagrams", "bottleneck", "diagrams", "spanning_tree", "wasserstein"]

H1_NODES_MAX: Final = 128
"""More is finer and slower: 128 nodes without any structure, the worst there is, take 0.2 s."""
ERROR: Final = 1e-3
"""Relative error of distances between diagrams."""

_simplices = cast("Any", importlib.import_module("gudhi")).SimplexTree
_distances = cast("Any", importlib.import_module("gudhi.hera"))


@dataclass(frozen=True, slots=True)
class Diagrams:
    """Where parts and rings begin and end, in the unit of the distances."""

    h0: NDArray[np.float64]
    """(n - 1) x 2, longest first; all parts are born at 0. The one that never ends is left out."""
    h1: NDArray[np.float64]
    """Rings x 2, longest first."""


def _pairs(distances: Floats) -> Floats:
    n = len(distances)
    if distances.shape != (n, n) or n == 0:
        raise ValueError(f"distances of shape {distances.shape}")
    if not np.isfinite(distances).all() or (distances < 0).any():
        raise ValueError("distances are finite and not negative")
    return np.maximum(distances, distances.T)


def spanning_tree(distances: NDArray[np.float64]) -> list[tuple[float, int, int]]:
    """The minimum spanning tree's links (length, node, node), longest first (Prim, n^2)."""
    distances = _pairs(distances)
    n = len(distances)
    outside = np.arange(n) > 0
    nearest_ms: Floats = distances[0].copy()
    nearest: NDArray[np.int64] = np.zeros(n, dtype=np.int64)
    links: list[tuple[float, int, int]] = []
    for _ in range(n - 1):
        node = int(np.where(outside, nearest_ms, np.inf).argmin())
        links.append((float(nearest_ms[node]), int(nearest[node]), node))
        outside[node] = False
        closer = distances[node] < nearest_ms
        nearest[closer] = node
        np.minimum(nearest_ms, distances[node], out=nearest_ms)
    return sorted(links, reverse=True)


def _landmarks(distances: Floats, count: int) -> NDArray[np.int64]:
    """So many nodes far from each other, beginning with the one in the middle."""
    chosen = [int(distances.sum(axis=1).argmin())]
    away = distances[chosen[0]].copy()
    while len(chosen) < count:
        chosen.append(int(away.argmax()))
        np.minimum(away, distances[chosen[-1]], out=away)
    return np.array(chosen)


def diagrams(distances: NDArray[np.float64]) -> Diagrams:
    """H0 and H1 of the Rips filtration; the longer of two unequal directions counts.

    Raises ValueError unless the distances are finite, not negative, and a square.
    """
    distances = _pairs(distances)
    ends = np.array([length for length, _, _ in spanning_tree(distances)], dtype=np.float64)
    h0 = np.column_stack([np.zeros_like(ends), ends])
    if len(distances) > H1_NODES_MAX:
        chosen = _landmarks(distances, H1_NODES_MAX)
        distances = distances[np.ix_(chosen, chosen)]
    # Once one node is joined to all others, nothing changes any more.
    last = float(distances.max(axis=1).min())
    tree = _simplices.create_from_array(distances, max_filtration=last)
    tree.collapse_edges()
    tree.expansion(2)
    tree.compute_persistence(homology_coeff_field=2)
    h1 = np.asarray(tree.persistence_intervals_in_dimension(1), dtype=np.float64).reshape(-1, 2)
    h1 = np.minimum(h1, last)
    return Diagrams(h0, h1[np.lexsort((h1[:, 0], h1[:, 0] - h1[:, 1]))])


def _off_diagonal(diagram: Floats) -> Floats:
    return diagram[diagram[:, 1] > diagram[:, 0]]


def bottleneck(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """How far the worst point must move to make one diagram the other, within ERROR."""
    ours, theirs = _off_diagonal(left), _off_diagonal(right)
    return float(_distances.bottleneck_distance(ours, theirs, delta=ERROR))


def wasserstein(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """How far all points must move in sum (order 1, the longer coordinate counts), within ERROR."""
    ours, theirs = _off_diagonal(left), _off_diagonal(right)
    return float(_distances.wasserstein_distance(ours, theirs, order=1.0, delta=ERROR))
