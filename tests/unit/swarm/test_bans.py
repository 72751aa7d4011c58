from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.swarm import Bans
from shardline.swarm.bans import FIRST_S, MOST_S, PEERS_MAX
from tests.unit.swarm.making import node_id

A, B = node_id(1), node_id(2)


def test_a_ban_doubles_with_each_failure_after_it_up_to_a_limit() -> None:
    bans, now_s, lengths_s = Bans(), 0.0, list[float]()
    for _ in range(9):
        lengths_s.append(bans.failed(A, now_s))
        now_s += lengths_s[-1]
    assert lengths_s == [15, 30, 60, 120, 240, 480, 600, 600, 600]


def test_failures_that_several_sessions_tell_at_once_count_once() -> None:
    bans = Bans()
    assert bans.failed(A, 100.0) == FIRST_S
    assert bans.failed(A, 101.0) == FIRST_S - 1
    assert bans.avoid(103.0) == {A: FIRST_S - 3}
    assert bans.failed(A, 100.0 + FIRST_S) == 2 * FIRST_S


def test_a_ban_ends() -> None:
    bans = Bans()
    bans.failed(A, 0.0)
    bans.failed(B, 10.0)
    assert bans.avoid(FIRST_S) == {B: 10.0}
    assert bans.avoid(60.0) == {}


def test_a_success_forgives() -> None:
    bans = Bans()
    bans.failed(A, 0.0)
    bans.failed(A, 20.0)
    bans.succeeded(A)
    bans.succeeded(B)
    assert bans.avoid(21.0) == {}
    assert bans.failed(A, 22.0) == FIRST_S


def test_a_quiet_time_forgives() -> None:
    bans = Bans()
    bans.failed(A, 0.0)
    assert bans.failed(A, FIRST_S + MOST_S - 1) == 2 * FIRST_S
    assert bans.failed(A, FIRST_S + MOST_S - 1 + 2 * FIRST_S + MOST_S) == FIRST_S


def test_the_peers_remembered_are_bounded() -> None:
    bans = Bans()
    for number in range(PEERS_MAX + 50):
        bans.failed(node_id(number), number / 1e3)
    banned = bans.avoid(PEERS_MAX / 1e3)
    assert len(banned) == PEERS_MAX
    assert node_id(0) not in banned
    assert node_id(PEERS_MAX + 49) in banned


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=40))
def test_no_ban_is_longer_than_the_longest_and_none_outlives_a_success(
    events: list[tuple[float, bool]],
) -> None:
    bans, now_s = Bans(), 0.0
    for wait_s, good in events:
        now_s += wait_s
        if good:
            bans.succeeded(A)
            assert bans.avoid(now_s) == {}
        else:
            assert 0 < bans.failed(A, now_s) <= MOST_S
            assert bans.avoid(now_s)[A] == pytest.approx(bans.failed(A, now_s))
