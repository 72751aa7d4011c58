"""Whose turn it is to be measured."""

from hypothesis import given
from hypothesis import strategies as st

from shardline.core.ids import NodeId
from shardline.node.telling import Links
from shardline.swarm import LINKS_TOLD


def node(number: int) -> NodeId:
    return NodeId(f"{number:064x}")


@given(st.integers(0, 200))
def test_every_node_has_its_turn_within_one_round(count: int) -> None:
    links, others = Links(), [node(number) for number in range(count)]
    rounds = -(-count // LINKS_TOLD)
    seen = [links.turn(others) for _ in range(rounds)]
    assert all(len(chosen) == len(set(chosen)) <= LINKS_TOLD for chosen in seen)
    assert {other for chosen in seen for other in chosen} == set(others)


def test_the_record_keeps_the_latest_times_of_nodes_that_are_here() -> None:
    links, others = Links(), [node(number) for number in range(2 * LINKS_TOLD)]
    chosen: list[NodeId] = []
    for _ in range(2):
        chosen = links.turn(others)
        for other in chosen:
            links.add(other, 1.0)
        assert list(links.known) == chosen
    links.add(chosen[0], None)
    assert chosen[0] not in links.known
    links.turn(chosen[:5])
    assert set(links.known) == set(chosen[1:5])
