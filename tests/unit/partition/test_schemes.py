"""Schemes as data, and the states by which they are found."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.core.errors import BadInput
from shardline.partition import FAMILIES, Library, make, nearest_schemes, shipped, state_of
from shardline.topology import distance

if TYPE_CHECKING:
    from shardline.partition import Problem


def renamed(problem: Problem, order: np.ndarray) -> Problem:
    """The same nodes, listed in another order."""
    ends = np.ix_(*2 * [np.append(order, len(order))])
    nodes = tuple(problem.nodes[int(at)] for at in order)
    delay_s, bytes_per_s = problem.delay_s[ends], problem.bytes_per_s[ends]
    return replace(problem, nodes=nodes, delay_s=delay_s, bytes_per_s=bytes_per_s)


@settings(max_examples=12)
@given(st.sampled_from(sorted(FAMILIES)), st.integers(1, 80), st.integers(0, 1_000))
def test_a_state_knows_no_names(family: str, nodes: int, seed: int) -> None:
    problem = make(family, nodes, 8, seed)
    other = renamed(problem, np.random.default_rng(seed).permutation(nodes))
    assert distance(state_of(problem), state_of(other)) < 1e-6


def test_nodes_without_links_have_a_state_too() -> None:
    problem = make("homes", 5, 8)
    delay_s = problem.delay_s.copy()
    delay_s[2], delay_s[:, 2] = inf, inf
    assert state_of(replace(problem, delay_s=delay_s)).nodes == 6


def test_a_library_goes_through_its_file() -> None:
    data = shipped().to_bytes()
    assert Library.from_bytes(data) == shipped()
    assert Library.from_bytes(data).to_bytes() == data


def test_the_shipped_library_is_small_and_holds_every_family() -> None:
    assert len(shipped().to_bytes()) < 300_000
    assert {scheme.name.split()[0] for scheme in shipped().schemes} == set(FAMILIES)


@pytest.mark.parametrize("path", ["nowhere", "ratio", "roles", "state"])
def test_a_damaged_library_is_refused(path: str) -> None:
    data = json.loads(shipped().to_bytes())
    scheme = data["schemes"][0]
    match path:
        case "ratio":
            scheme["latency"]["ratio"] = 0.5
        case "roles":
            scheme["throughput"]["roles"][0] = [0.5]
        case "state":
            del scheme["state"]
        case _:
            scheme["nodes"] = ["n1"]
    with pytest.raises(BadInput, match="schemes"):
        Library.from_bytes(json.dumps(data).encode())
    with pytest.raises(BadInput, match="schemes"):
        Library.from_bytes(b"\x80")


def test_a_network_of_a_known_kind_finds_schemes_of_its_kind() -> None:
    right = 0
    for family in FAMILIES:
        state = state_of(make(family, 30, 60, seed=9))
        first, *others = nearest_schemes(shipped(), state, 60, 3)
        right += first.name.startswith(f"{family} ")
        assert len(others) == 2
    assert right >= len(FAMILIES) - 1  # homes and the mixed are much alike
