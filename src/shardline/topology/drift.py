"""What changed since the last agreed snapshot, and whether the swarm split (PAPER section 3).

The paper monitors the state over time; thresholds and the alarm are ours. A snapshot differs by the
distance between fingerprints: beyond DRIFT_MAX the plan is made anew. The alarm is another matter:
two clusters of which the nodes known before are now GROWTH_MIN times farther apart than they were.
A network that always had two clusters raises none, nor does a node that goes far away alone.

A snapshot is of one window of time: probes from before a split, mixed in, hide it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Final

import numpy as np

from shardline.topology.clusters import Clusters, clusters, crowd
from shardline.topology.fingerprint import Fingerprint, distance, fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from shardline.topology.links import LinkMatrix

__all__ = ["DRIFT_MAX", "Drift", "Snapshot", "Split", "drift", "take"]

DRIFT_MAX: Final = 0.25
"""Fingerprints farther apart than this ask for a new plan. Less plans more often."""
GROWTH_MIN: Final = 3.0
"""Clusters that came so many times farther apart have split. Noise moves their distance by some
tens of per cent."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The network at one time."""

    links: LinkMatrix
    fingerprint: Fingerprint
    clusters: Clusters
    """Of round trips at their worst: no guess joins what no measurement joins."""


@dataclass(frozen=True, slots=True)
class Split:
    """Two parts of the swarm that came apart."""

    parts: tuple[tuple[str, ...], tuple[str, ...]]
    """Names, newcomers included; the larger part first."""
    apart_ms: float
    """The shortest round trip that was measured between the parts, now."""
    was_ms: float
    """The same in the agreed snapshot, between those who were there."""


@dataclass(frozen=True, slots=True)
class Drift:
    """What changed since the agreed snapshot."""

    distance: float
    replan: bool
    splits: tuple[Split, ...]
    joined: tuple[str, ...]
    left: tuple[str, ...]


def take(links: LinkMatrix) -> Snapshot:
    """A snapshot of at least two nodes; raises ValueError for fewer."""
    return Snapshot(links, fingerprint(links), clusters(links.nodes, links.cautious_ms()))


def drift(agreed: Snapshot, now: Snapshot) -> Drift:
    """What changed; pure, so a series is a fold: agree on `now` whenever the plan is made anew."""
    before, after = set(agreed.links.nodes), set(now.links.nodes)
    apart = distance(agreed.fingerprint, now.fingerprint)
    splits = tuple(_splits(agreed.links, now))
    return Drift(
        apart,
        apart > DRIFT_MAX or bool(splits),
        splits,
        tuple(sorted(after - before)),
        tuple(sorted(before - after)),
    )


def _splits(agreed: LinkMatrix, now: Snapshot) -> Iterable[Split]:
    known = set(agreed.nodes)
    # Doubt is no growth: the widest that it may have been, against what somebody measured now.
    was, is_now = agreed.cautious_ms(), np.where(now.links.measured, now.links.rtt_ms, np.inf)
    large = crowd(len(now.links.nodes))
    crowds = [
        (group, [name for name in group if name in known])
        for group in now.clusters.groups
        if len(known.intersection(group)) >= large
    ]
    for (left, left_known), (right, right_known) in combinations(crowds, 2):
        was_ms = _between(agreed.nodes, was, left_known, right_known)
        apart_ms = _between(now.links.nodes, is_now, left_known, right_known)
        if GROWTH_MIN * was_ms <= apart_ms < np.inf:
            yield Split((left, right), apart_ms, was_ms)


def _between(
    nodes: tuple[str, ...], distances: NDArray[np.float64], left: list[str], right: list[str]
) -> float:
    place = {name: index for index, name in enumerate(nodes)}
    ways = distances[np.ix_([place[name] for name in left], [place[name] for name in right])]
    return float(ways.min())
