"""Drift: quiet under noise, loud within one snapshot of a split."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.topology import (
    FAMILIES,
    Network,
    Probe,
    Snapshot,
    drift,
    link_matrix,
    made_up,
    probes,
    take,
)

NODES = 30
seeds = st.integers(0, 10_000)


def snapshot(network: Network, seed: int, gone: frozenset[str] = frozenset()) -> Snapshot:
    """What is measured at one time; nodes that are gone neither ask nor answer.

    Estimating what nobody measured takes most of these tests' time: few links and few examples.
    """
    here = [name for name in network.nodes if name not in gone]
    return take(link_matrix(here, probes(network, links=10, seed=seed)))


def moved(network: Network, part: np.ndarray, factor: float) -> Network:
    """The two parts this many times their widest distance apart."""
    across = part[:, None] != part[None, :]
    far_ms = factor * network.rtt_ms.max()
    return replace(network, rtt_ms=np.where(across, far_ms, network.rtt_ms))


@settings(max_examples=4)
@given(st.sampled_from(sorted(FAMILIES)), seeds)
def test_noise_and_other_samples_raise_no_alarm(family: str, seed: int) -> None:
    network = made_up(family, NODES, seed)
    agreed = snapshot(network, seed)
    for later in range(1, 3):
        assert drift(agreed, snapshot(network, seed + later)).splits == ()


@settings(max_examples=7, derandomize=True)
@given(st.sampled_from(sorted(FAMILIES)), seeds, st.floats(0.2, 0.8), st.floats(5.0, 20.0))
def test_a_split_is_named_within_one_snapshot(
    family: str, seed: int, share: float, factor: float
) -> None:
    network = made_up(family, NODES, seed)
    part = np.random.default_rng(seed).permutation(NODES) < int(share * NODES)
    found = drift(snapshot(network, seed), snapshot(moved(network, part, factor), seed + 1))
    sides = [set(np.array(network.nodes)[side].tolist()) for side in (part, ~part)]
    assert len(found.splits) == 1
    for side in sides:
        # A node none of whose probes stayed on its side cannot be placed on it.
        assert any(
            set(group) <= side and len(side) - len(group) <= 1 for group in found.splits[0].parts
        )
    assert found.splits[0].apart_ms > 3 * found.splits[0].was_ms
    assert found.replan


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_parts_that_do_not_answer_each_other_have_split(family: str) -> None:
    network = made_up(family, NODES, 7)
    left = set(network.nodes[: NODES // 2])
    cut = [
        Probe(p.source, p.target, inf if (p.source in left) != (p.target in left) else p.rtt_ms)
        for p in probes(network, links=10, seed=8)
    ]
    found = drift(snapshot(network, 7), take(link_matrix(network.nodes, cut)))
    assert len(found.splits) == 1
    assert left in [set(part) for part in found.splits[0].parts]


def test_a_lone_node_that_goes_far_away_is_no_split() -> None:
    network = made_up("uniform", NODES, 1)
    part = np.arange(NODES) == 4
    assert drift(snapshot(network, 1), snapshot(moved(network, part, 10.0), 2)).splits == ()


def test_who_came_and_went_is_named() -> None:
    network = made_up("uniform", NODES, 1)
    agreed = snapshot(network, 1, gone=frozenset({"n0003"}))
    found = drift(agreed, snapshot(network, 2, gone=frozenset({"n0005"})))
    assert (found.joined, found.left) == (("n0003",), ("n0005",))


def test_the_same_network_needs_no_new_plan_and_another_does() -> None:
    network = made_up("uniform", NODES, 1)
    agreed = snapshot(network, 1)
    assert not drift(agreed, snapshot(network, 2)).replan
    assert drift(agreed, snapshot(made_up("star", NODES, 1), 2)).replan
    assert drift(agreed, agreed).distance == 0.0
