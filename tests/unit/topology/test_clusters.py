"""Clusters at the first gap between bars."""

import numpy as np
import pytest

from shardline.topology import clusters, made_up


def names(count: int) -> list[str]:
    return [f"n{i}" for i in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_two_clusters_and_a_bridge_are_two(seed: int) -> None:
    network = made_up("bridge", 30, seed)
    found = clusters(network.nodes, network.rtt_ms)
    ends = sorted(group[0] for group in found.groups)
    assert len(found.groups) == 2
    assert ends[0] == "n0000"
    assert found.groups[0] == tuple(sorted(found.groups[0]))
    assert found.apart > 40.0


@pytest.mark.parametrize("family", ["star", "ring", "uniform", "long-tail"])
def test_what_has_no_gap_is_one(family: str) -> None:
    network = made_up(family, 40, 3)
    found = clusters(network.nodes, network.rtt_ms)
    assert found.groups == (network.nodes,)
    assert (found.gap, found.apart) == (1.0, 0.0)


def test_a_far_node_does_not_hide_two_clusters() -> None:
    places = np.array([0.0, 1.0, 2.0, 50.0, 51.0, 52.0, 500.0])
    found = clusters(names(7), np.abs(places[:, None] - places[None]))
    assert found.groups == (("n0", "n1", "n2"), ("n3", "n4", "n5"), ("n6",))


def test_of_continents_and_towns_the_continents_are_found() -> None:
    towns = np.array([0.0, 5.0, 10.0, 100.0, 105.0, 110.0])
    places = np.concatenate([towns, towns + 0.1])
    found = clusters(names(12), np.abs(places[:, None] - places[None]))
    assert len(found.groups) == 2
    assert found.apart == pytest.approx(89.9)


def test_one_node_is_one_cluster() -> None:
    assert clusters(["a"], np.zeros((1, 1))).groups == (("a",),)
