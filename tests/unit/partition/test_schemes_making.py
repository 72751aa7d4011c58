"""The library's making."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from shardline.core.errors import BadInput
from shardline.partition import Library, make, precompute, scheme_of, shipped


def test_the_same_arguments_give_the_same_bytes() -> None:
    problem = make("homes", 12, 16, seed=2)
    first, again = (Library((scheme_of(problem, "a", 3, looks=40),)).to_bytes() for _ in range(2))
    assert first == again


def test_there_is_a_scheme_for_each_size() -> None:
    names = [scheme.name for scheme in precompute([4, 7], ["lan"], [8, 9], seed=3)]
    assert names == [f"lan {size} seed 3" for size in ("4x8", "4x9", "7x8", "7x9")]


def test_the_shipped_library_is_what_the_command_makes() -> None:
    [made] = precompute([12], ["lan"], [32], seed=0)
    [kept] = [scheme for scheme in shipped().schemes if scheme.name == made.name]
    assert made.blocks == kept.blocks
    assert made.throughput.ratio == pytest.approx(kept.throughput.ratio, rel=0.01)
    assert made.latency.ratio == pytest.approx(kept.latency.ratio, rel=0.01)


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadInput, match="there are lan"):
        list(precompute([4], ["galaxy"], [8], seed=0))


def test_a_network_without_a_plan_makes_no_scheme() -> None:
    problem = make("lan", 3, 6)
    with pytest.raises(BadInput, match="moon: no chain"):
        scheme_of(replace(problem, delay_s=problem.delay_s + inf), "moon")
