"""Diagrams: known forms, stability, and distances against exact assignments."""

import importlib
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.topology import (
    H1_NODES_MAX,
    bottleneck,
    diagrams,
    made_up,
    spanning_tree,
    wasserstein,
)

# As exact as can be; comes with the developers' hivemind.
assign = cast("Any", importlib.import_module("scipy.optimize")).linear_sum_assignment


def ring(nodes: int, around: float) -> np.ndarray:
    turn = np.arange(nodes) / nodes
    way = np.abs(turn[:, None] - turn[None]) % 1
    return around * np.minimum(way, 1 - way)


def network(seed: int, nodes: int = 16) -> np.ndarray:
    luck = np.random.default_rng(seed)
    apart = np.triu(luck.uniform(1.0, 100.0, (nodes, nodes)), 1)
    return apart + apart.T


def assignment(left: np.ndarray, right: np.ndarray) -> float:
    """The 1-Wasserstein distance, exactly: points to points or to the diagonal."""
    m, n = len(left), len(right)
    cost = np.zeros((m + n, m + n))
    cost[:m, :n] = np.abs(left[:, None] - right[None]).max(axis=-1)
    cost[:m, n:] = (left[:, 1] - left[:, 0])[:, None] / 2
    cost[m:, :n] = (right[:, 1] - right[:, 0])[None] / 2
    return float(cost[assign(cost)].sum())


def test_a_ring_has_one_ring() -> None:
    found = diagrams(ring(24, 240.0))
    assert np.allclose(found.h1, [[10.0, 80.0]])
    assert np.allclose(found.h0, [[0.0, 10.0]] * 23)


def test_a_large_ring_keeps_its_ring_on_landmarks() -> None:
    found = diagrams(ring(2 * H1_NODES_MAX, 240.0))
    assert len(found.h0) == 2 * H1_NODES_MAX - 1
    assert len(found.h1) == 1
    assert found.h1[0, 1] == pytest.approx(80.0, rel=0.05)


def test_two_clusters_have_one_long_bar() -> None:
    found = diagrams(made_up("bridge", 20, 1).rtt_ms)
    assert found.h0[0, 1] > 5 * found.h0[1, 1]


def test_one_node_has_no_bars() -> None:
    found = diagrams(np.zeros((1, 1)))
    assert found.h0.shape == found.h1.shape == (0, 2)


def test_unequal_directions_count_as_the_longer() -> None:
    assert spanning_tree(np.array([[0.0, 3.0], [5.0, 0.0]])) == [(5.0, 0, 1)]


@pytest.mark.parametrize("wrong", [np.zeros((2, 3)), np.zeros((0, 0)), -np.ones((2, 2))])
def test_what_is_no_distance_matrix_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="distances"):
        diagrams(wrong)


def test_infinite_distances_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        diagrams(np.array([[0.0, np.inf], [np.inf, 0.0]]))


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_distances_between_diagrams_are_those_of_the_best_assignment(a: int, b: int) -> None:
    left, right = diagrams(network(a)).h1, diagrams(network(b)).h1
    assert wasserstein(left, right) == pytest.approx(assignment(left, right), rel=2e-3, abs=1e-6)
    assert bottleneck(left, right) <= wasserstein(left, right) * 1.01 + 1e-6
    assert wasserstein(left, left) == pytest.approx(0.0, abs=1e-6)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.01, 5.0))
def test_diagrams_move_no_further_than_distances(seed: int, most: float) -> None:
    calm = network(seed)
    shift = np.triu(np.random.default_rng(seed).uniform(-most, most, calm.shape), 1)
    moved = np.maximum(calm + shift + shift.T, 0.0)
    most = float(np.abs(moved - calm).max())
    for before, after in zip(_both(calm), _both(moved), strict=True):
        assert bottleneck(before, after) <= 1.01 * most + 1e-6


def _both(distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = diagrams(distances)
    return found.h0, found.h1
