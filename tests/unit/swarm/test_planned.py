"""Plans for a swarm that stands: what they aim at, and the moves and places that follow."""

from __future__ import annotations

from math import log
from random import Random
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.core.spans import Span, gaps
from shardline.swarm import NodeRecord, State, best_move, choose_place, choose_span, decide
from shardline.swarm.aims import aims_of
from shardline.swarm.planned import GAIN_EACH, way_to
from shardline.swarm.rebalancing import REST_S
from shardline.swarm.sight import sight_of
from tests.unit.swarm.making import NOW_S, node_id, record

if TYPE_CHECKING:
    from shardline.core.ids import NodeId

STEP_BYTES = 8_192
BLOCKS = 8


def _sites(
    spans: list[tuple[int, int]], apart_ms: float = 100.0, **changes: object
) -> list[NodeRecord]:
    """Nodes in two places by turns; all have measured all."""
    return [
        record(
            number,
            *span,
            placed_at_s=1.0,
            fits=span[1] - span[0],
            block_steps_per_s=400.0,
            links={
                node_id(other): 2.0 if (number - other) % 2 == 0 else apart_ms
                for other in range(len(spans))
                if other != number
            },
            **changes,
        )
        for number, span in enumerate(spans)
    ]


ACROSS = [(0, 4), (4, 8), (0, 4), (4, 8)]
"""Whoever begins is on one site, whoever ends is on the other."""


def _next(records: list[NodeRecord], moves: int, *, refined: bool = False) -> NodeRecord | None:
    """The mover, where it goes."""
    now_s = NOW_S + moves * (REST_S + 60)
    chosen = best_move(
        records, blocks=BLOCKS, fingerprint="f00d", dtype="float32", now_s=now_s,
        step_bytes=STEP_BYTES, refined=refined,
    )  # fmt: skip
    if chosen is None:
        return None
    mover = next(held for held in records if held.node == chosen[0])
    span = chosen[1].span
    return msgspec.structs.replace(mover, start=span.start, stop=span.stop)


def _with(records: list[NodeRecord], moved: NodeRecord) -> list[NodeRecord]:
    return [moved if held.node == moved.node else held for held in records]


def _settle(records: list[NodeRecord], *, refined: bool = False) -> tuple[list[NodeRecord], int]:
    """One move after the other until nobody moves; how many there were."""
    before_s, seen = _value_s(records), [records]
    while (moved := _next(records, len(seen) - 1, refined=refined)) is not None:
        records = _with(records, moved)
        assert not gaps((held.span for held in records), BLOCKS)
        assert records not in seen, "thrashing"
        seen.append(records)
    moves = len(seen) - 1
    assert moves <= _moves_most(len(records), before_s, _value_s(records))
    return records, moves


def _moves_most(nodes: int, before_s: float, after_s: float) -> float:
    """Each move for balance takes GAIN_EACH of a step's time, so that many fit in between.

    Before each and behind the last there may be moves to a plan, one a node: they end, or are left,
    where a step takes no longer than where they began.
    """
    balancing = log(before_s / after_s) / -log(1 - GAIN_EACH)
    return balancing + nodes * (balancing + 1)


def _value_s(records: list[NodeRecord]) -> float:
    sight = sight_of(records, STEP_BYTES)
    assert sight is not None
    return sight.value_s()


def _mixed(luck: Random) -> list[NodeRecord]:
    """Slow and fast nodes that cover the model, in two places near or far."""
    count = luck.randint(3, 7)
    sizes = [luck.randint(2, 6) for _ in range(count)]
    spans = [(start := luck.randint(0, BLOCKS - size), start + size) for size in sizes]
    spans += [(gap.start, gap.stop) for gap in gaps((Span(*span) for span in spans), BLOCKS)]
    return [
        msgspec.structs.replace(held, block_steps_per_s=luck.choice([50.0, 400.0, 900.0]))
        for held in _sites(spans, apart_ms=luck.choice([5.0, 60.0, 200.0]))
    ]


@pytest.mark.parametrize("refined", [False, True])
def test_a_plan_has_a_chain_of_neighbours_on_either_site(*, refined: bool) -> None:
    sight = sight_of(_sites(ACROSS), STEP_BYTES)
    assert sight is not None
    aims = aims_of(sight, refined=refined)
    for site in (0, 1):
        held = [aims[node_id(number)] for number in (site, site + 2)]
        assert not gaps(held, BLOCKS)


def test_a_swarm_whose_chains_cross_a_slow_way_mends_that_in_few_moves() -> None:
    records = _sites(ACROSS)
    after, moves = _settle(records)
    assert 2 <= moves <= 4
    assert _value_s(after) < 0.7 * _value_s(records)
    assert [len(held.span) for held in after] == [len(held.span) for held in records]


def test_where_all_are_near_or_links_do_not_count_nobody_moves() -> None:
    assert _next(_sites(ACROSS, apart_ms=2.0), 0) is None
    assert not any(decide(held.node, _sites(ACROSS), now_s=NOW_S) for held in _sites(ACROSS))


@pytest.mark.parametrize("changes", [{"pinned": True}, {"placed_at_s": 0.0}])
def test_who_stays_for_good_is_planned_around(changes: dict[str, object]) -> None:
    records = [msgspec.structs.replace(held, **changes) for held in _sites(ACROSS)]
    assert _next(records, 0) is None
    sight = sight_of(records, STEP_BYTES)
    assert sight is not None
    spans = {held.node: held.span for held in records}
    assert all(spans[node] == aim for node, aim in aims_of(sight).items())


def test_nobody_goes_while_its_blocks_would_be_uncovered() -> None:
    records = _sites([(0, 4), (4, 8)])
    assert _next(records, 0) is None
    holed = _sites([(0, 4), (0, 4), (0, 4)])
    mover = _next(holed, 0)  # a hole comes first, whatever the links are
    assert mover is not None
    assert mover.span == Span(4, 8)


def test_others_wait_for_a_node_that_rests_and_is_the_first_to_go() -> None:
    records = _sites(ACROSS)
    mover = _next(records, 0)
    assert mover is not None
    (rests,) = (held for held in records if held.node == mover.node)
    rests = msgspec.structs.replace(rests, placed_at_s=NOW_S)
    assert _next(_with(records, rests), 0) is None
    assert _next(_with(records, rests), 1) is not None


@settings(max_examples=20)
@given(st.randoms(use_true_random=False))
def test_moving_ends_uncovers_nothing_and_is_the_same_for_all(luck: Random) -> None:
    """Of 2,000 seeds none took more than 1.4 moves a node; `_moves_most` is what none can."""
    records = _mixed(luck)
    shuffled = luck.sample(records, len(records))
    assert _next(records, 0) == _next(shuffled, 0)
    _settle(records)


@pytest.mark.parametrize("refined", [False, True])
@pytest.mark.parametrize("seed", [51, 52, 61, 73, 99])
def test_swarms_that_went_to_and_fro_come_to_rest(seed: int, *, refined: bool) -> None:
    """A first move for balance let a step take four times as long, and the next one undid it."""
    after, _ = _settle(_mixed(Random(seed)), refined=refined)
    assert _settle(after, refined=refined)[1] == 0


@settings(max_examples=6)
@pytest.mark.parametrize("refined", [False, True])
@given(luck=st.randoms(use_true_random=False))
def test_a_way_is_gone_to_its_end_unless_a_step_takes_less_time_already(
    *, luck: Random, refined: bool
) -> None:
    records = _mixed(luck)
    began_s, way = _value_s(records), _way(records, refined=refined)
    while way:
        node, start = next(iter(way.items()))
        (mover,) = (held for held in records if held.node == node)
        stop = start + len(mover.span)
        records = _with(records, msgspec.structs.replace(mover, start=start, stop=stop))
        rest, way = list(way.items())[1:], _way(records, refined=refined)
        assert list(way.items()) == rest or (not way and _value_s(records) < began_s)


def _way(records: list[NodeRecord], *, refined: bool) -> dict[NodeId, int]:
    sight = sight_of(records, STEP_BYTES)
    assert sight is not None
    return way_to(sight, aims_of(sight, refined=refined))


def _newcomer(fits: int, near: int, count: int) -> NodeRecord:
    links = {node_id(n): 2.0 if (n - near) % 2 == 0 else 100.0 for n in range(count)}
    return record(
        99,
        0,
        min(fits, BLOCKS),
        state=State.LOADING,
        fits=fits,
        block_steps_per_s=400.0,
        links=links,
    )


def test_a_newcomer_completes_a_chain_of_its_neighbours() -> None:
    records = _sites([(0, 4), (4, 8), (0, 4), (4, 8), (0, 4)])
    span = choose_place(records, _newcomer(4, 0, 5), step_bytes=STEP_BYTES)
    assert span == Span(4, 8)
    records = _sites([(0, 4), (4, 8), (4, 8), (4, 8), (0, 4)])
    span = choose_place(records, _newcomer(4, 1, 5), step_bytes=STEP_BYTES)
    assert span == Span(0, 4)


@settings(max_examples=10)
@given(st.randoms(use_true_random=False), st.integers(0, 6), st.integers(1, 9))
def test_a_newcomer_covers_what_placement_covers_and_makes_no_step_longer(
    luck: Random, count: int, fits: int
) -> None:
    sizes = [luck.randint(1, 6) for _ in range(count)]
    spans = [(start := luck.randint(0, BLOCKS - size), start + size) for size in sizes]
    records, one = _sites(spans), _newcomer(fits, luck.randint(0, 1), count)
    lacked = choose_span(records, blocks=BLOCKS, fits=fits, block_steps_per_s=400.0)
    span = choose_place(luck.sample(records, count), one, step_bytes=STEP_BYTES)
    assert len(span) == len(lacked)
    either = [
        [*records, msgspec.structs.replace(one, start=it.start, stop=it.stop)]
        for it in (span, lacked)
    ]
    holes = [gaps((held.span for held in some), BLOCKS) for some in either]
    if holes[1] or not records:
        assert span == lacked
    else:
        assert not holes[0]
        assert _value_s(either[0]) <= _value_s(either[1])


def test_a_newcomer_without_links_is_placed_by_what_the_swarm_lacks() -> None:
    records = [msgspec.structs.replace(held, links={}) for held in _sites(ACROSS)]
    one = msgspec.structs.replace(_newcomer(4, 0, 4), links={})
    lacked = choose_span(records, blocks=BLOCKS, fits=4, block_steps_per_s=400.0)
    assert choose_place(records, one, step_bytes=STEP_BYTES) == lacked
