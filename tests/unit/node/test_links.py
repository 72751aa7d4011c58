"""Whose turn it is to be measured, and what is told of it."""

from math import inf

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shardline.core.ids import NodeId
from shardline.node.links import LATE_MS, REFRESH_S, Links, Rates
from shardline.swarm import LINKS_TOLD, PINGS_KEPT, Flow

ME = NodeId("8" * 64)
RATES = Rates(20_000, 100_000)


def node(number: int) -> NodeId:
    return NodeId(f"{number:064x}")


def pinged(count: int) -> tuple[Links, list[NodeId]]:
    """All others are here and have answered."""
    links, others = Links(ME), [node(number) for number in range(count)]
    for other in links.turn(others):
        links.add(other, 1.0)
    return links, others


@given(st.integers(0, 200))
def test_every_node_has_its_turn_within_one_round(count: int) -> None:
    links, others = Links(ME), [node(number) for number in range(count)]
    rounds = -(-count // LINKS_TOLD)
    seen = [links.turn(others) for _ in range(rounds)]
    assert all(len(chosen) == len(set(chosen)) <= LINKS_TOLD for chosen in seen)
    assert {other for chosen in seen for other in chosen} == set(others)


def test_the_record_keeps_the_latest_times_of_nodes_that_are_here() -> None:
    links, others = Links(ME), [node(number) for number in range(2 * LINKS_TOLD)]
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


def test_flows_are_told_in_the_order_of_the_links() -> None:
    links, others = pinged(3)
    links.asked(others[1], RATES, 0.0)
    links.add(others[0], 2.0)
    told = links.told()
    assert told["links"] == {others[1]: 1.0, others[2]: 1.0, others[0]: 2.0}
    assert told["flows"] == (Flow(20_000, 100_000, 0, 1), Flow(0, 0, 0, 1), Flow(0, 0, 0, 2))


@given(st.lists(st.none() | st.floats(0, 10_000), max_size=100), st.floats(0, 10_000))
def test_late_is_who_does_not_answer_or_takes_as_long_as_a_second_try(
    times_ms: list[float | None], last_ms: float
) -> None:
    links, (other,) = pinged(1)
    for ms in [*times_ms, last_ms]:
        links.add(other, ms)
    (flow,) = links.told()["flows"]
    kept = [inf if ms is None else ms for ms in [1.0, *times_ms, last_ms]][-PINGS_KEPT:]
    assert flow.pings == len(kept) <= PINGS_KEPT
    assert flow.late == sum(ms == inf or ms >= min(kept) + LATE_MS for ms in kept)
    assert len(msgspec.msgpack.encode(flow)) <= 13


def test_the_way_is_measured_that_was_not_for_longest() -> None:
    links, others = pinged(3)
    asked: list[NodeId | None] = []
    for now_s in range(4):
        due = links.due(others, float(now_s))
        asked.append(due)
        if due is not None:
            links.asked(due, RATES, float(now_s))
    assert set(asked[:3]) == set(others)
    assert asked[3] is None, "all are fresh"
    assert links.due(others, REFRESH_S) == asked[0]
    assert links.due(others[:0], REFRESH_S) is None, "nobody is idle"


def test_who_had_no_time_goes_to_the_end_of_the_line_and_keeps_its_rates() -> None:
    links, others = pinged(2)
    for other in others:
        links.asked(other, RATES, 0.0)
    first = links.due(others, REFRESH_S)
    assert first is not None
    links.asked(first, None, REFRESH_S)
    second = links.due(others, REFRESH_S)
    assert second is not None
    assert second != first
    assert all(flow.up_kbit_s == RATES.up_kbit_s for flow in links.told()["flows"])
    links.asked(second, RATES, REFRESH_S)
    assert links.due(others, REFRESH_S) == first


def test_equals_do_not_all_ask_the_same() -> None:
    others = [node(number) for number in range(6)]
    asked: set[NodeId | None] = set()
    for me in others:
        links = Links(me)
        for other in links.turn([other for other in others if other != me]):
            links.add(other, 1.0)
        asked.add(links.due(others, 0.0))
    assert len(asked) == len(others)


def test_a_swarm_of_many_costs_no_more_bursts_than_one_of_a_few() -> None:
    links, others = Links(ME), [node(number) for number in range(4 * LINKS_TOLD)]
    asked = 0
    for now_s in range(200):
        for other in links.turn(others):
            links.add(other, 1.0)
        due = links.due(others, float(now_s))
        if due is not None:
            asked += 1
            links.asked(due, RATES, float(now_s))
    assert asked == LINKS_TOLD


def test_who_left_meanwhile_is_forgotten() -> None:
    links, others = pinged(2)
    links.turn(others[:1])
    links.asked(others[1], RATES, 0.0)
    assert links.due(others, 0.0) == others[0]


@given(st.floats(0, 1e30), st.floats(0, 1e30))
def test_any_rate_fits_a_record(up: float, down: float) -> None:
    rates = Rates.of(up, down)
    flow = Flow(rates.up_kbit_s, rates.down_kbit_s)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(flow), type=Flow) == flow
    assert flow.up_kbit_s > 0
