from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.core.spans import Span, gaps
from shardline.swarm import NodeRecord, State, choose_span
from tests.unit.swarm.making import record


@st.composite
def swarms(draw: st.DrawFn) -> tuple[int, list[NodeRecord]]:
    """A model's blocks and the nodes that hold some of them."""
    blocks = draw(st.integers(1, 12))
    nodes: list[NodeRecord] = []
    for number in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, blocks - 1))
        stop = draw(st.integers(start + 1, blocks))
        rate = draw(st.sampled_from([0.0, 10.0, 55.5]))
        nodes.append(record(number, start, stop, blocks=blocks, block_steps_per_s=rate))
    return blocks, nodes


def _uncovered(records: list[NodeRecord], blocks: int) -> set[int]:
    missing = gaps((record.span for record in records), blocks)
    return {block for gap in missing for block in range(gap.start, gap.stop)}


@given(swarms(), st.integers(1, 15))
def test_a_newcomer_covers_as_many_uncovered_blocks_as_it_can(
    swarm: tuple[int, list[NodeRecord]], fits: int
) -> None:
    blocks, records = swarm
    span = choose_span(records, blocks=blocks, fits=fits)
    size = min(fits, blocks)
    assert len(span) == size
    assert span.stop <= blocks
    uncovered = _uncovered(records, blocks)
    windows = [set(range(start, start + size)) for start in range(blocks - size + 1)]
    assert len(uncovered & set(range(span.start, span.stop))) == max(
        len(uncovered & window) for window in windows
    )


@given(st.integers(1, 40), st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_joiners_to_an_empty_swarm_cover_it_as_soon_as_their_sizes_suffice(
    blocks: int, sizes: list[int]
) -> None:
    records: list[NodeRecord] = []
    for number, fits in enumerate(sizes):
        span = choose_span(records, blocks=blocks, fits=fits)
        records.append(record(number, span.start, span.stop, blocks=blocks, state=State.LOADING))
        assert len(_uncovered(records, blocks)) == max(0, blocks - sum(sizes[: number + 1]))


@given(swarms(), st.integers(1, 15), st.randoms())
def test_the_choice_does_not_depend_on_the_records_order(
    swarm: tuple[int, list[NodeRecord]], fits: int, luck: object
) -> None:
    blocks, records = swarm
    choice = choose_span(records, blocks=blocks, fits=fits)
    assert choose_span(records[::-1], blocks=blocks, fits=fits) == choice


def test_the_slowest_blocks_are_helped_first() -> None:
    records = [
        record(1, 0, 4, block_steps_per_s=100.0),
        record(2, 4, 8, block_steps_per_s=20.0),
    ]
    assert choose_span(records, blocks=8, fits=4, block_steps_per_s=40.0) == Span(4, 8)
    assert choose_span(records, blocks=8, fits=2, block_steps_per_s=40.0) == Span(4, 6)


def test_a_fast_newcomer_also_stands_in_for_those_who_have_less_to_spare() -> None:
    records = [
        record(1, 0, 4, block_steps_per_s=100.0),
        record(2, 4, 8, block_steps_per_s=20.0),
    ]
    assert choose_span(records, blocks=8, fits=5, block_steps_per_s=200.0) == Span(3, 8)


def test_of_windows_that_carry_as_much_the_one_with_the_fewest_holders_is_taken() -> None:
    records = [
        record(1, 0, 8),
        record(2, 0, 4),
        record(3, 0, 8),
        record(4, 4, 8, state=State.LEAVING),
    ]
    records.append(record(5, 5, 8, block_steps_per_s=1e-9))
    assert choose_span(records, blocks=8, fits=1) == Span(4, 5)


def test_a_node_that_has_not_measured_yet_counts_as_a_middling_one() -> None:
    records = [record(1, 0, 4, block_steps_per_s=100.0), record(2, 4, 8)]
    before = choose_span(records, blocks=8, fits=4, block_steps_per_s=100.0)
    records[1] = record(2, 4, 8, block_steps_per_s=100.0)
    assert choose_span(records, blocks=8, fits=4) == before


def test_who_leaves_or_serves_another_model_does_not_count() -> None:
    records = [
        record(1, 0, 4, state=State.LEAVING),
        record(2, 0, 4, fingerprint="beef"),
        record(3, 4, 8),
    ]
    assert choose_span(records, blocks=8, fits=4, fingerprint="f00d") == Span(0, 4)


@pytest.mark.parametrize("fits", [0, -1])
def test_a_node_without_room_takes_nothing(fits: int) -> None:
    with pytest.raises(ValueError, match="room for"):
        choose_span([], blocks=8, fits=fits)
