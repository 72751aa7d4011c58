"""Made-up networks, and pictures of them."""

import numpy as np
import pytest

from shardline.topology import FAMILIES, link_matrix, made_up, picture, probes


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("nodes", [3, 17])
def test_networks_are_networks(family: str, nodes: int) -> None:
    network = made_up(family, nodes, 1)
    others = ~np.eye(nodes, dtype=bool)
    assert (network.rtt_ms == network.rtt_ms.T).all()
    assert (network.rtt_ms.diagonal() == 0.0).all()
    assert (network.rtt_ms[others] > 0.0).all()
    assert np.isfinite(network.bytes_per_s[others]).all()


def test_the_same_seed_gives_the_same_network_and_another_another() -> None:
    first, again, other = (made_up("sites", 9, seed) for seed in (1, 1, 2))
    assert (first.rtt_ms == again.rtt_ms).all()
    assert not (first.rtt_ms == other.rtt_ms).all()
    assert probes(first, links=3, seed=1) == probes(again, links=3, seed=1)


def test_too_few_nodes_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        made_up("ring", 2, 1)


def test_a_picture_puts_clusters_apart() -> None:
    network = made_up("bridge", 20, 2)
    drawn = picture(link_matrix(network.nodes, probes(network, links=10, seed=1)))
    left, right = (
        drawn.places_ms[[drawn.nodes.index(name) for name in group]].mean(axis=0)
        for group in drawn.clusters.groups
    )
    assert np.linalg.norm(left - right) > 30.0
    assert drawn.places_ms.shape == (20, 2)
    assert len(drawn.rtt.h0) == len(drawn.transfer.h0) == 19
