"""Estimates of links, against plain guesses."""

import numpy as np
import pytest

from shardline.topology import FAMILIES, classical_scaling, fit_rates, fit_rtt, made_up


def some(values: np.ndarray, share: float) -> np.ndarray:
    luck = np.random.default_rng(3)
    hidden = np.triu(luck.random(values.shape) > share, 1)
    return np.where(hidden | hidden.T | np.eye(len(values), dtype=bool), np.nan, values)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_coordinates_beat_the_median_by_far(family: str) -> None:
    network = made_up(family, 40, 2)
    seen = some(network.rtt_ms, 0.4)
    hidden = np.isnan(seen) & ~np.eye(40, dtype=bool)
    missed = np.abs(np.log(fit_rtt(seen)[hidden] / network.rtt_ms[hidden]))
    plain = np.abs(np.log(np.nanmedian(seen) / network.rtt_ms[hidden]))
    assert np.median(missed) < 0.6 * np.median(plain)
    assert np.median(missed) < 0.15


def test_one_broken_link_bends_no_map() -> None:
    network = made_up("uniform", 30, 4)
    seen = some(network.rtt_ms, 0.5)
    row, column = np.argwhere(~np.isnan(seen))[0]
    broken = seen.copy()
    broken[row, column] = broken[column, row] = 10_000.0
    assert np.median(np.abs(np.log(fit_rtt(broken) + 1) - np.log(fit_rtt(seen) + 1))) < 0.05


def test_the_lesser_of_upload_and_download_binds() -> None:
    network = made_up("uniform", 30, 5)
    seen = some(network.bytes_per_s, 0.4)
    hidden = np.isnan(seen) & ~np.eye(30, dtype=bool)
    missed = np.abs(np.log(fit_rates(seen)[hidden] / network.bytes_per_s[hidden]))
    assert np.median(missed) < 0.1


def test_points_in_a_plane_come_back_with_their_distances() -> None:
    points = np.random.default_rng(0).normal(size=(12, 2))
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    found = classical_scaling(apart, 2)
    assert np.allclose(np.linalg.norm(found[:, None] - found[None], axis=-1), apart)


def test_a_plane_for_two_nodes_has_two_dimensions() -> None:
    assert classical_scaling(np.array([[0.0, 4.0], [4.0, 0.0]]), 3).shape == (2, 3)
