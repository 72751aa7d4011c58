"""The network's shape: link matrix, persistent homology, fingerprint, drift (BSNS, PAPER 3)."""

from shardline.topology.clusters import Clusters, clusters, crowd
from shardline.topology.drift import DRIFT_MAX, Drift, Snapshot, Split, drift, take
from shardline.topology.estimates import classical_scaling, fit_rates, fit_rtt
from shardline.topology.families import FAMILIES, Network, made_up, probes
from shardline.topology.fingerprint import (
    Fingerprint,
    Shape,
    Weights,
    distance,
    distances,
    fingerprint,
    nearest,
    shape_of,
)
from shardline.topology.homology import (
    H1_NODES_MAX,
    Diagrams,
    bottleneck,
    diagrams,
    spanning_tree,
    wasserstein,
)
from shardline.topology.links import COVERAGE, NODES_MAX, LinkMatrix, Probe, link_matrix
from shardline.topology.picture import Picture, picture

__all__ = [
    "COVERAGE",
    "DRIFT_MAX",
    "FAMILIES",
    "H1_NODES_MAX",
    "NODES_MAX",
    "Clusters",
    "Diagrams",
    "Drift",
    "Fingerprint",
    "LinkMatrix",
    "Network",
    "Picture",
    "Probe",
    "Shape",
    "Snapshot",
    "Split",
    "Weights",
    "bottleneck",
    "classical_scaling",
    "clusters",
    "crowd",
    "diagrams",
    "distance",
    "distances",
    "drift",
    "fingerprint",
    "fit_rates",
    "fit_rtt",
    "link_matrix",
    "made_up",
    "nearest",
    "picture",
    "probes",
    "shape_of",
    "spanning_tree",
    "take",
    "wasserstein",
]
