"""What is held against whom: pure, so told in a line each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.client.doubts import FAILS_MAX, Doubts
from shardline.core.errors import (
    CacheFull,
    JournalLost,
    NodeLost,
    PeerFault,
    ShardlineError,
    StepFailed,
)
from shardline.core.ids import NodeId
from shardline.core.spans import Span
from shardline.swarm import Hop

A, B, C, D = (NodeId(digit * 64) for digit in "abcd")
CHAIN = (Hop(A, Span(0, 2)), Hop(B, Span(2, 4)), Hop(C, Span(4, 6)))


@pytest.mark.parametrize("error", [PeerFault("x"), CacheFull("x"), StepFailed("x")])
def test_what_a_node_says_of_itself_costs_its_own_place_only(error: ShardlineError) -> None:
    doubts = Doubts()
    doubts.answered(B, error, None, CHAIN)
    assert doubts.look(CHAIN)
    assert doubts.lost == {2: error}


def test_a_lie_is_not_forgiven_by_coming_back_and_a_failure_is() -> None:
    doubts = Doubts()
    doubts.answered(A, PeerFault("x"), None, CHAIN)
    doubts.answered(B, StepFailed("x"), None, CHAIN)
    for node in (A, B):
        doubts.joined(node)
    assert set(doubts.avoid) == {A}


def test_a_node_that_fails_a_step_again_and_again_is_not_asked_again() -> None:
    doubts = Doubts()
    for times in range(1, FAILS_MAX + 1):
        assert not doubts.refused
        doubts.answered(B, StepFailed(f"index out of range, {times}"), None, CHAIN)
        doubts.look(CHAIN)
    assert list(doubts.refused) == [B]
    assert str(doubts.refused[B]) == "index out of range, 3"


def test_failures_of_earlier_steps_are_forgotten() -> None:
    doubts = Doubts()
    for _ in range(2 * FAILS_MAX):
        doubts.answered(B, StepFailed("x"), None, CHAIN)
        doubts.look(CHAIN)
        doubts.step_done()
    assert not doubts.refused


def test_only_the_one_behind_it_may_be_blamed() -> None:
    doubts = Doubts()
    for blamed in (A, C, D):
        doubts.answered(A, NodeLost("x"), blamed, CHAIN)
    assert set(doubts.avoid) == {A}, "what it says of itself counts"
    doubts.answered(D, NodeLost("x"), B, CHAIN)
    assert B not in doubts.avoid, "it is not in the chain"


def test_those_whom_others_miss_too_are_no_lie() -> None:
    doubts = Doubts()
    for node in (B, D):
        chain = (CHAIN[0], Hop(node, Span(2, 4)))
        doubts.answered(A, NodeLost("x"), node, chain)
        doubts.gone(node, NodeLost("it went away"))
    assert A not in doubts.avoid


def test_a_sender_that_kept_nothing_is_lost_and_may_be_asked_again() -> None:
    doubts = Doubts()
    doubts.answered(A, JournalLost("x"), None, CHAIN)
    assert doubts.look(CHAIN)
    assert not doubts.avoid


def test_one_failure_said_twice_is_one() -> None:
    doubts = Doubts()
    doubts.answered(B, StepFailed("x"), None, CHAIN)
    doubts.answered(B, StepFailed("x"), None, CHAIN)
    assert not doubts.reach_further(2)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([A, B, C, D]),
            st.sampled_from([PeerFault("x"), CacheFull("x"), StepFailed("x"), NodeLost("x")]),
            st.none() | st.sampled_from([A, B, C, D]),
        )
    )
)
def test_whatever_is_said_the_lost_are_of_the_chain_and_those_left_are_avoided(
    said: list[tuple[NodeId, ShardlineError, NodeId | None]],
) -> None:
    doubts = Doubts()
    for peer, error, about in said:
        doubts.answered(peer, error, about, CHAIN)
    doubts.look(CHAIN)
    assert doubts.lost.keys() <= {0, 2, 4}
    assert doubts.refused.keys() <= doubts.avoid.keys()
    assert doubts.suspected.keys() <= doubts.avoid.keys()
