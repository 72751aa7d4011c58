"""Fingerprints: the same for the same form, different for different ones."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.core.errors import BadInput
from shardline.topology import (
    FAMILIES,
    Fingerprint,
    Shape,
    Weights,
    distance,
    fingerprint,
    link_matrix,
    made_up,
    nearest,
    probes,
    shape_of,
)

FORM = Weights(scale=0.0, size=0.0)
families = st.sampled_from(sorted(FAMILIES))
seeds = st.integers(0, 10_000)


def measured(family: str, nodes: int, seed: int) -> Fingerprint:
    """As a swarm sees it: some links, with noise."""
    network = made_up(family, nodes, seed)
    return fingerprint(link_matrix(network.nodes, probes(network, links=12, seed=seed)))


def known(family: str, nodes: int, seed: int, factor: float = 1.0) -> Fingerprint:
    """With all links known."""
    network = made_up(family, nodes, seed)
    rates = np.maximum(1 / network.bytes_per_s, 1 / network.bytes_per_s.T)
    return Fingerprint(nodes, shape_of(network.rtt_ms * factor), shape_of(rates * factor))


def numbers(shape: Shape) -> np.ndarray:
    return np.array([*shape.pairs, *shape.parts, *shape.rings])


@settings(max_examples=30)
@given(families, st.integers(3, 40), seeds, seeds)
def test_renaming_nodes_changes_nothing(family: str, nodes: int, seed: int, other: int) -> None:
    rtt_ms = made_up(family, nodes, seed).rtt_ms
    order = np.random.default_rng(other).permutation(nodes)
    renamed = shape_of(rtt_ms[np.ix_(order, order)])
    assert np.allclose(numbers(renamed), numbers(shape_of(rtt_ms)), rtol=1e-9)


@settings(max_examples=30)
@given(families, st.integers(3, 40), seeds, st.floats(0.001, 0.2))
def test_small_noise_changes_it_little(family: str, nodes: int, seed: int, noise: float) -> None:
    rtt_ms = made_up(family, nodes, seed).rtt_ms
    luck = np.triu(np.random.default_rng(seed).uniform(0.0, 1.0, rtt_ms.shape), 1)
    noisy = shape_of(rtt_ms * (1 + noise) ** (luck + luck.T))
    calm = shape_of(rtt_ms)
    for name in ("pairs", "parts"):
        before, after = np.array(getattr(calm, name)), np.array(getattr(noisy, name))
        assert (after <= before * (1 + noise) + 1e-9).all()
        assert (after >= before / (1 + noise) - 1e-9).all()
    # A ring's ends lie below the greatest distance, and each moves by its share of the noise.
    most = 2 * noise * rtt_ms.max() / calm.scale + noise * max(calm.rings)
    assert np.abs(np.array(noisy.rings) - np.array(calm.rings)).max() <= most + 1e-9


@settings(max_examples=20)
@given(families, seeds, st.floats(0.01, 100.0))
def test_scale_is_kept_apart_from_form(family: str, seed: int, factor: float) -> None:
    plain, scaled = known(family, 12, seed), known(family, 12, seed, factor)
    assert distance(plain, scaled, FORM) == pytest.approx(0.0, abs=1e-9)
    assert scaled.rtt.scale == pytest.approx(factor * plain.rtt.scale)
    assert distance(plain, scaled, Weights(transfer=0.0)) == pytest.approx(
        0.1 * abs(np.log(factor)), abs=1e-9
    )


@settings(max_examples=20)
@given(families, families, families, seeds)
def test_it_is_a_distance(first: str, second: str, third: str, seed: int) -> None:
    a, b, c = (known(family, 10, seed) for family in (first, second, third))
    assert distance(a, a) == 0.0
    assert distance(a, b) == distance(b, a)
    assert distance(a, c) <= distance(a, b) + distance(b, c) + 1e-9


def test_it_goes_through_json_and_is_small() -> None:
    found = measured("uniform", 20, 1)
    text = json.dumps(found.as_json())
    assert Fingerprint.from_json(json.loads(text)) == found
    assert len(text) < 2_000


def test_damaged_ones_are_refused() -> None:
    data = measured("uniform", 20, 1).as_json()
    data["rtt"]["parts"] = [1.0]
    with pytest.raises(BadInput, match="fingerprint"):
        Fingerprint.from_json(data)


def test_one_node_has_no_form() -> None:
    with pytest.raises(ValueError, match="one node"):
        fingerprint(link_matrix(["a"], []))


def test_nearest_needs_something_to_be_near_to() -> None:
    with pytest.raises(ValueError, match="stored"):
        nearest(measured("uniform", 8, 1), {})


def test_families_are_told_apart_over_seeds_and_sizes() -> None:
    stored = {
        f"{family} {nodes}": measured(family, nodes, 0) for family in FAMILIES for nodes in (20, 36)
    }
    asked = [(family, measured(family, 28, seed)) for family in FAMILIES for seed in (100, 101)]
    right = [nearest(state, stored)[0].startswith(family + " ") for family, state in asked]
    assert np.mean(right) >= 0.94
    closer: list[float] = []
    for family, state in asked:
        same, other = (
            min(
                distance(state, stored[name])
                for name in stored
                if name.startswith(family + " ") is kin
            )
            for kin in (True, False)
        )
        closer.append(other / same)
    assert np.median(closer) > 1.8
