from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.core.errors import NotCovered
from shardline.core.spans import Span, gaps
from shardline.swarm import Hop, NodeRecord, State, choose_chain
from tests.unit.swarm.making import node_id, record


@st.composite
def swarms(draw: st.DrawFn, *, equal: bool = False) -> tuple[int, list[NodeRecord]]:
    """A model's blocks and nodes of all kinds; with `equal`, no node or link beats another."""
    blocks = draw(st.integers(1, 10))
    nodes: list[NodeRecord] = []
    for number in range(draw(st.integers(0, 7))):
        start = draw(st.integers(0, blocks - 1))
        stop = draw(st.integers(start + 1, blocks))
        changes: dict[str, object] = {"state": draw(st.sampled_from(State))}
        changes["fingerprint"] = draw(st.sampled_from(["f00d", "f00d", "f00d", "beef"]))
        if not equal:
            others = st.sampled_from([node_id(other) for other in range(7)])
            changes["links"] = draw(st.dictionaries(others, st.floats(0, 300), max_size=7))
            changes["block_steps_per_s"] = draw(st.sampled_from([0.0, 1.0, 200.0, 1e4]))
        nodes.append(record(number, start, stop, blocks=blocks, **changes))
    return blocks, nodes


def _usable(records: list[NodeRecord], avoid: set[int]) -> list[NodeRecord]:
    return [
        record
        for record in records
        if record.state is State.READY
        and record.fingerprint == "f00d"
        and record.node not in {node_id(number) for number in avoid}
    ]


def _fewest_hops(spans: list[Span], blocks: int) -> int:
    reached, hops = 0, 0
    while reached < blocks:
        reached = max(span.stop for span in spans if span.start <= reached)
        hops += 1
    return hops


@given(swarms(), st.sets(st.integers(0, 6), max_size=3))
def test_a_chain_passes_every_block_once_in_order_or_says_who_is_missing(
    swarm: tuple[int, list[NodeRecord]], avoid: set[int]
) -> None:
    blocks, records = swarm
    usable = {record.node: record for record in _usable(records, avoid)}
    missing = gaps((record.span for record in usable.values()), blocks)
    banned = {node_id(number) for number in avoid}
    if missing:
        with pytest.raises(NotCovered) as caught:
            choose_chain(records, blocks=blocks, fingerprint="f00d", avoid=banned)
        assert all(str(gap) in str(caught.value) for gap in missing)
        return
    chain = choose_chain(records, blocks=blocks, fingerprint="f00d", avoid=banned)
    assert [block for hop in chain for block in range(hop.span.start, hop.span.stop)] == list(
        range(blocks)
    )
    for hop in chain:
        held = usable[hop.node].span
        assert held.start <= hop.span.start < hop.span.stop <= held.stop
    assert len({hop.node for hop in chain}) == len(chain)


@given(swarms(equal=True))
def test_where_all_cost_the_same_no_chain_has_fewer_hops(
    swarm: tuple[int, list[NodeRecord]],
) -> None:
    blocks, records = swarm
    spans = [record.span for record in _usable(records, set())]
    if not gaps(spans, blocks):
        chain = choose_chain(records, blocks=blocks, fingerprint="f00d")
        assert len(chain) == _fewest_hops(spans, blocks)


@given(swarms())
def test_the_choice_does_not_depend_on_the_records_order(
    swarm: tuple[int, list[NodeRecord]],
) -> None:
    blocks, records = swarm
    if not gaps([record.span for record in _usable(records, set())], blocks):
        chain = choose_chain(records, blocks=blocks, fingerprint="f00d")
        assert choose_chain(records[::-1], blocks=blocks, fingerprint="f00d") == chain


def test_near_nodes_are_preferred() -> None:
    near = record(2, 4, 8, links={node_id(1): 2.0})
    far = record(3, 4, 8, links={node_id(1): 80.0})
    chain = choose_chain([record(1, 0, 4), far, near], blocks=8, fingerprint="f00d")
    assert chain == (Hop(node_id(1), Span(0, 4)), Hop(node_id(2), Span(4, 8)))


def test_the_callers_own_links_count() -> None:
    records = [record(1, 0, 8), record(2, 0, 8)]
    links = {node_id(1): 40.0, node_id(2): 3.0}
    chain = choose_chain(records, blocks=8, fingerprint="f00d", links=links)
    assert chain == (Hop(node_id(2), Span(0, 8)),)


def test_a_fast_node_does_more_of_the_work() -> None:
    slow = record(1, 0, 8, block_steps_per_s=1.0, links={node_id(2): 1.0})
    fast = record(2, 2, 8, block_steps_per_s=1000.0)
    chain = choose_chain([slow, fast], blocks=8, fingerprint="f00d")
    assert chain == (Hop(node_id(1), Span(0, 2)), Hop(node_id(2), Span(2, 8)))


def test_a_node_about_to_leave_the_blocks_is_asked_only_where_others_are_much_slower() -> None:
    leaving = record(1, 0, 4, block_steps_per_s=100.0, next_start=4, next_stop=8)
    stays = record(2, 0, 4, block_steps_per_s=10.0)
    last = record(3, 4, 8)
    chain = choose_chain([leaving, stays, last], blocks=8, fingerprint="f00d")
    assert chain[0].node == stays.node
    keeps = record(1, 0, 4, block_steps_per_s=100.0, next_start=0, next_stop=6)
    assert choose_chain([keeps, stays, last], blocks=8, fingerprint="f00d")[0].node == keeps.node
    assert choose_chain([leaving, last], blocks=8, fingerprint="f00d")[0].node == leaving.node
    within = choose_chain(
        [record(1, 0, 6, next_start=2, next_stop=8), record(2, 0, 6)],
        blocks=8, fingerprint="f00d", within=Span(3, 5),
    )  # fmt: skip
    assert within == (Hop(leaving.node, Span(3, 5)),)  # what it keeps is as good as ever


def test_a_node_is_not_asked_twice_in_one_chain() -> None:
    slow = record(1, 0, 8, block_steps_per_s=10.0, links={node_id(2): 1.0})
    fast = record(2, 3, 5, block_steps_per_s=1000.0)
    assert choose_chain([slow, fast], blocks=8, fingerprint="f00d") == (
        Hop(node_id(1), Span(0, 8)),
    )


def test_only_the_dtype_asked_for_is_used() -> None:
    records = [record(1, 0, 8), record(2, 0, 8, dtype="bfloat16")]
    chain = choose_chain(records, blocks=8, fingerprint="f00d", dtype="bfloat16")
    assert [hop.node for hop in chain] == [node_id(2)]
    with pytest.raises(NotCovered, match="no live node holds blocks 0:8 in float16"):
        choose_chain(records, blocks=8, fingerprint="f00d", dtype="float16")


def test_an_empty_swarm_holds_nothing() -> None:
    with pytest.raises(NotCovered, match=r"^no live node holds blocks 0:8$"):
        choose_chain([], blocks=8, fingerprint="f00d")


def test_every_gap_is_named() -> None:
    with pytest.raises(NotCovered, match=r"^no live node holds blocks 0:2, 5:8$"):
        choose_chain([record(1, 2, 5)], blocks=8, fingerprint="f00d")


def test_nodes_of_another_model_are_named() -> None:
    with pytest.raises(NotCovered, match="0:8 of this model: the nodes here serve tiny-stories"):
        choose_chain([record(1, 0, 8)], blocks=8, fingerprint="beef")


def test_who_could_close_the_gap_is_told() -> None:
    records = [
        record(1, 0, 4),
        record(2, 4, 8, state=State.LOADING),
        record(3, 4, 8, state=State.LEAVING),
        record(4, 4, 8),
    ]
    with pytest.raises(NotCovered, match=r"4:8 \(1 loading, 1 leaving, 1 avoided\)"):
        choose_chain(records, blocks=8, fingerprint="f00d", avoid={node_id(4)})
