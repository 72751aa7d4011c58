"""Link matrices: merging, estimating, and error bars that hold."""

from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.core.errors import BadInput
from shardline.topology import COVERAGE, FAMILIES, NODES_MAX, Probe, link_matrix, made_up, probes

families = st.sampled_from(sorted(FAMILIES))
seeds = st.integers(0, 10_000)


def test_two_ends_that_disagree_meet_on_a_logarithmic_scale() -> None:
    links = link_matrix(["a", "b"], [Probe("a", "b", rtt_ms=10.0), Probe("b", "a", rtt_ms=40.0)])
    assert links.rtt_ms[0, 1] == pytest.approx(20.0)
    assert links.rtt_ms[0, 1] == links.rtt_ms[1, 0]
    assert links.measured.tolist() == [[False, True], [True, False]]


def test_a_newer_report_counts_for_more() -> None:
    found = [Probe("a", "b", rtt_ms=10.0), Probe("b", "a", rtt_ms=90.0, age_s=600.0)]
    links = link_matrix(["a", "b"], found)
    assert links.rtt_ms[0, 1] == pytest.approx(10.0, rel=0.01)
    assert links.age_s[0, 1] == 0.0


def test_an_older_entry_has_a_wider_error_bar() -> None:
    young = link_matrix(["a", "b"], [Probe("a", "b", rtt_ms=10.0)])
    old = link_matrix(["a", "b"], [Probe("a", "b", rtt_ms=10.0, age_s=3600.0)])
    assert old.rtt_factor[0, 1] > young.rtt_factor[0, 1] > 1.0


def test_no_answer_is_a_very_long_way() -> None:
    links = link_matrix(["a", "b"], [Probe("a", "b", rtt_ms=inf)])
    assert links.rtt_ms[0, 1] == pytest.approx(10_000.0)


def test_rates_keep_their_direction() -> None:
    found = [Probe("a", "b", bytes_per_s=1e6), Probe("b", "a", bytes_per_s=4e6)]
    links = link_matrix(["a", "b"], found)
    assert links.bytes_per_s[0, 1] == pytest.approx(1e6)
    assert links.bytes_per_s[1, 0] == pytest.approx(4e6)
    assert links.ms_per_mib()[0, 1] == pytest.approx(1e3 * 2**20 / 1e6)
    assert links.ms_per_mib()[0, 0] == 0.0


def test_nothing_measured_is_said_to_be_unknown() -> None:
    links = link_matrix(["a", "b", "c"], [])
    assert not links.measured.any()
    assert (links.rtt_factor[0, 1:] >= 30.0).all()
    assert np.isnan(links.rtt_missed)
    assert np.isinf(links.age_s).all()


def test_a_node_that_nobody_measured_stays_unknown_beside_others() -> None:
    network = made_up("uniform", 20, 1)
    links = link_matrix([*network.nodes, "stranger"], probes(network, links=8, seed=1))
    assert (links.rtt_factor[-1, :-1] >= 30.0).all()
    assert np.median(links.rtt_factor[:-1, :-1]) < 3.0


def test_probes_of_other_nodes_are_passed_over() -> None:
    links = link_matrix(["a", "b"], [Probe("a", "gone", rtt_ms=1.0)])
    assert not links.measured.any()


@pytest.mark.parametrize("nodes", [[], ["a", "a"], [str(i) for i in range(NODES_MAX + 1)]])
def test_impossible_lists_of_nodes_are_refused(nodes: list[str]) -> None:
    with pytest.raises(BadInput):
        link_matrix(nodes, [])


@pytest.mark.parametrize(
    "wrong",
    [
        {"rtt_ms": -1.0},
        {"rtt_ms": float("nan")},
        {"bytes_per_s": 0.0},
        {"bytes_per_s": inf},
        {"age_s": -1.0},
        {"age_s": inf},
    ],
)
def test_what_no_link_can_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"a|b"):
        Probe("a", "b", **wrong)
    with pytest.raises(ValueError, match="itself"):
        Probe("a", "a")


@settings(max_examples=3)
@given(families, seeds)
def test_the_order_of_reports_does_not_matter(family: str, seed: int) -> None:
    network = made_up(family, 14, seed)
    found = probes(network, links=5, seed=seed)
    links, again = (link_matrix(network.nodes, order) for order in (found, found[::-1]))
    assert (links.rtt_ms == again.rtt_ms).all()
    assert (links.bytes_per_s == again.bytes_per_s).all()
    assert (links.rtt_factor == again.rtt_factor).all()


@settings(max_examples=3)
@given(families, seeds)
def test_names_matter_far_less_than_the_error_bars(family: str, seed: int) -> None:
    network = made_up(family, 20, seed)
    found = probes(network, links=8, seed=seed)
    links = link_matrix(network.nodes, found)
    order = np.random.default_rng(seed).permutation(20)
    renamed = {name: network.nodes[int(order[at])] for at, name in enumerate(network.nodes)}
    other = [
        Probe(renamed[p.source], renamed[p.target], p.rtt_ms, p.bytes_per_s, p.age_s) for p in found
    ]
    again = link_matrix(network.nodes, other)
    others = ~np.eye(20, dtype=bool)
    there = again.rtt_ms[np.ix_(order, order)][others]
    assert np.median(np.abs(np.log(there / links.rtt_ms[others]))) < 0.02
    there = again.bytes_per_s[np.ix_(order, order)][others]
    assert np.allclose(there, links.bytes_per_s[others], rtol=1e-3)


@settings(max_examples=6, derandomize=True)
@given(families, seeds)
def test_error_bars_hold_the_truth(family: str, seed: int) -> None:
    network = made_up(family, 40, seed)
    links = link_matrix(network.nodes, probes(network, links=10, seed=seed))
    others = ~np.eye(40, dtype=bool)
    for value, truth, factor, seen in (
        (links.rtt_ms, network.rtt_ms, links.rtt_factor, links.measured),
        (links.bytes_per_s, network.bytes_per_s, links.rate_factor, links.rate_measured),
    ):
        missed = np.abs(np.log(value[others] / truth[others])) <= np.log(factor[others])
        assert missed[seen[others]].mean() >= COVERAGE - 0.08
        assert missed[~seen[others]].mean() >= COVERAGE - 0.12


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_error_bars_hold_on_average_and_say_something(family: str) -> None:
    held: list[float] = []
    for seed in range(2):
        network = made_up(family, 40, seed)
        links = link_matrix(network.nodes, probes(network, links=10, seed=seed))
        guessed = ~links.measured & ~np.eye(40, dtype=bool)
        missed = np.abs(np.log(links.rtt_ms[guessed] / network.rtt_ms[guessed]))
        held.append(float((missed <= np.log(links.rtt_factor[guessed])).mean()))
        assert np.median(np.expm1(missed)) <= links.rtt_missed  # held out from less
        assert np.median(links.rtt_factor[guessed]) < 4.0
    assert np.mean(held) >= COVERAGE
