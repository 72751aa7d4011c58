"""What a drawing of a network needs: where to put the nodes, and its persistence diagram."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardline.topology.clusters import Clusters, clusters
from shardline.topology.estimates import classical_scaling
from shardline.topology.homology import Diagrams, diagrams

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shardline.topology.links import LinkMatrix

__all__ = ["Picture", "picture"]


@dataclass(frozen=True, slots=True)
class Picture:
    """A network to be drawn."""

    nodes: tuple[str, ...]
    places_ms: NDArray[np.float64]
    """n x 2: distances on paper are nearly round trips in ms (classical scaling)."""
    rtt: Diagrams
    """In ms."""
    transfer: Diagrams
    """In ms a MiB."""
    clusters: Clusters


def picture(links: LinkMatrix) -> Picture:
    """All that a drawing of this network needs; the same network gives the same drawing."""
    return Picture(
        links.nodes,
        classical_scaling(links.rtt_ms, 2),
        diagrams(links.rtt_ms),
        diagrams(links.ms_per_mib()),
        clusters(links.nodes, links.cautious_ms()),
    )
