"""The clusters of a network: what is left when the longest H0 bars are cut (ours; PAPER section 3).

Bars are cut from the longest down to the first gap: a bar that is GAP_MIN times as long as the
next. The first, not the widest: of continents made of towns made of machine rooms, it finds the
continents. Nodes far from all others do not hide it: a gap counts only if it leaves two clusters of
at least `crowd` nodes; without any such gap all nodes are one cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from shardline.topology.homology import spanning_tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Clusters", "clusters", "crowd"]

GAP_MIN: Final = 2.0
"""More misses near clusters, less takes the luck of a few nodes for clusters."""
CUTS_MAX: Final = 32
"""More than so many clusters are no division of a swarm."""
_SHARE = 0.05
_FEW = 2


@dataclass(frozen=True, slots=True)
class Clusters:
    """Who is with whom."""

    groups: tuple[tuple[str, ...], ...]
    """Largest first; names sorted. Nodes far from all others are groups of one."""
    gap: float
    """How many times longer the shortest bar between groups is than the longest within; 1 if all
    are one group."""
    apart: float
    """The shortest bar between groups, in the unit of the distances; 0 if all are one group."""


def crowd(nodes: int) -> int:
    """How many nodes make a cluster of their own rather than nodes far away."""
    return max(_FEW, round(_SHARE * nodes))


def _parts(n: int, links: Sequence[tuple[float, int, int]]) -> list[list[int]]:
    """The groups that these links join."""
    part = list(range(n))
    members = [[node] for node in range(n)]
    for _, left, right in links:
        small, large = sorted((part[left], part[right]), key=lambda at: len(members[at]))
        for node in members[small]:
            part[node] = large
        members[large] += members[small]
        members[small] = []
    return [group for group in members if group]


def clusters(nodes: Sequence[str], distances: NDArray[np.float64]) -> Clusters:
    """The clusters at the first gap between bars, from the longest down."""
    tree = spanning_tree(distances)
    large = crowd(len(nodes))
    for cut, (longer, shorter) in enumerate(pairwise(tree[: CUTS_MAX + 1]), start=1):
        if longer[0] < GAP_MIN * shorter[0]:
            continue
        found = _parts(len(nodes), tree[cut:])
        if sum(len(group) >= large for group in found) > 1:
            named = [tuple(sorted(nodes[node] for node in group)) for group in found]
            named.sort(key=lambda group: (-len(group), group))
            return Clusters(tuple(named), longer[0] / max(shorter[0], 1e-9), longer[0])
    return Clusters((tuple(sorted(nodes)),), 1.0, 0.0)
