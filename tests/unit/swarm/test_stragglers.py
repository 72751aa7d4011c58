from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.swarm import Stragglers
from shardline.swarm.stragglers import NODES_MAX
from tests.unit.swarm.making import node_id

A, B = node_id(1), node_id(2)


def _used(block_s: float = 0.01, steps: int = 50, seed: int = 1) -> Stragglers:
    """A node whose steps vary by a third."""
    luck = Random(seed)
    stragglers = Stragglers()
    for _ in range(steps):
        assert not stragglers.add(A, block_s * luck.uniform(0.8, 1.3))
    return stragglers


@given(st.integers(0, 1000), st.floats(1e-5, 1.0))
def test_a_node_ten_times_slower_than_it_was_is_known_within_three_steps(
    seed: int, block_s: float
) -> None:
    stragglers = _used(block_s, seed=seed)
    luck = Random(seed)
    told = [stragglers.add(A, 10 * block_s * luck.uniform(0.8, 1.3)) for _ in range(4)]
    assert told == [False, False, True, True]


@pytest.mark.parametrize("pauses", [1, 2])
def test_a_pause_makes_no_straggler_however_long(pauses: int) -> None:
    stragglers = _used()
    for _ in range(20):
        for _ in range(pauses):
            assert not stragglers.add(A, 3.0)
        for _ in range(5):
            assert not stragglers.add(A, 0.01)


def test_a_node_that_was_always_slow_is_none() -> None:
    _used(block_s=2.0)


def test_a_node_that_is_fast_again_is_none_any_more() -> None:
    stragglers = _used()
    assert [stragglers.add(A, 0.1) for _ in range(6)][-1]
    assert stragglers.is_straggler(A)
    assert not [stragglers.add(A, 0.01) for _ in range(3)][-1]
    assert not stragglers.is_straggler(B)


def test_a_node_that_stays_slow_becomes_a_slow_node() -> None:
    stragglers = _used()
    told = [stragglers.add(A, 0.1) for _ in range(300)]
    assert told[20]
    assert not told[-1]


def test_the_first_steps_are_not_judged() -> None:
    stragglers = Stragglers()
    assert not any(stragglers.add(A, block_s) for block_s in (5.0, 0.01, 0.01, 0.01, 0.01, 4.0))
    assert not stragglers.overdue(A, 4, 1e9)
    assert not stragglers.overdue(B, 4, 1e9)


def test_a_step_that_does_not_end_is_overdue() -> None:
    stragglers = _used(block_s=0.5)
    assert not stragglers.overdue(A, 4, 10.0)
    assert stragglers.overdue(A, 4, 30.0)
    quick = _used(block_s=0.001)
    assert not quick.overdue(A, 4, 1.5)  # a pause
    assert quick.overdue(A, 4, 2.5)


def test_a_node_that_moved_starts_anew() -> None:
    stragglers = _used()
    stragglers.forget(A)
    assert not any(stragglers.add(A, 1.0) for _ in range(50))


def test_the_nodes_remembered_are_bounded() -> None:
    stragglers = _used()
    for number in range(2, NODES_MAX + 2):
        stragglers.add(node_id(number), 1.0)
    assert not any(stragglers.add(A, 1.0) for _ in range(3))  # forgotten
