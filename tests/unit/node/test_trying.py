"""Which of two ways is kept: the one by which each session's token takes less."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.node.trying import BETTER, FOUND_MAX, HOLDS, LOOKS, SETTLES, Trying

TRIAL = SETTLES + LOOKS


def go(trying: Trying, sessions: int, tokens: int, *, groups_s: float, together_s: float) -> int:
    """Let each session write so many tokens; how many of all were served together."""
    together = 0
    for _ in range(sessions * tokens):
        together += trying.together
        trying.came(together_s if trying.together else groups_s, sessions)
    return together


@given(sessions=st.integers(1, 40), share=st.floats(0.1, 3.0))
def test_the_quicker_way_is_kept(sessions: int, share: float) -> None:
    trying = Trying()
    go(trying, sessions, 2 * TRIAL, groups_s=0.1, together_s=0.1 * share)
    assert trying.together is (share <= BETTER)
    held = go(trying, sessions, HOLDS - 1, groups_s=0.1, together_s=0.1 * share)
    assert held == (sessions * (HOLDS - 1) if share <= BETTER else 0)


def test_trying_costs_a_thirtieth_of_the_tokens_at_most() -> None:
    trying = Trying()
    tried = go(trying, 8, 20 * (HOLDS + TRIAL), groups_s=0.1, together_s=0.2)
    assert 0 < tried <= 8 * 20 * (HOLDS + TRIAL) / 30


def test_what_changes_is_noticed() -> None:
    trying = Trying()
    go(trying, 4, 2 * TRIAL, groups_s=0.1, together_s=0.2)
    assert not trying.together
    go(trying, 4, HOLDS + 2 * TRIAL, groups_s=0.2, together_s=0.1)
    assert trying.together
    assert trying.changes % 2 == 1


@pytest.mark.parametrize("others", [3, 5])
def test_ways_are_not_compared_with_more_or_fewer_sessions(others: int) -> None:
    trying = Trying()
    go(trying, 4, TRIAL, groups_s=0.1, together_s=0.05)
    assert trying.together  # on trial
    trying.came(0.05, others)
    assert not trying.together
    go(trying, others, 2 * TRIAL, groups_s=0.1, together_s=0.05)
    assert trying.together


def test_what_was_found_for_so_many_sessions_is_remembered() -> None:
    trying = Trying()
    for sessions, together_s in ((8, 0.05), (16, 0.2), (4, 0.05)):
        go(trying, sessions, 2 * TRIAL, groups_s=0.1, together_s=together_s)
    for sessions in (16, 8, 16, 4):
        trying.came(0.1, sessions)
        assert trying.together is (sessions != 16)


def test_only_so_much_is_remembered() -> None:
    trying = Trying()
    for sessions in range(1, FOUND_MAX + 3):
        go(trying, sessions, 2 * TRIAL, groups_s=0.1, together_s=0.05)
    trying.came(0.1, 3)
    assert trying.together
    assert len(vars(trying)["_found"]) == FOUND_MAX
