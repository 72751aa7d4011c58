"""How the demo's nodes share the blocks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.cli.local import NAMES, unequal_spans
from shardline.cli.local import _names as names_of  # pyright: ignore[reportPrivateUsage]
from shardline.core.spans import Span, gaps


@given(st.data(), st.integers(1, 200))
def test_the_spans_cover_all_blocks_once_and_get_no_shorter(
    data: st.DataObject, blocks: int
) -> None:
    nodes = data.draw(st.integers(1, blocks))
    spans = unequal_spans(blocks, nodes)
    assert len(spans) == nodes
    assert gaps(spans, blocks) == []
    assert sum(map(len, spans)) == blocks
    lengths = [len(span) for span in spans]
    assert lengths == sorted(lengths)


def test_three_nodes_share_as_one_to_two_to_three() -> None:
    assert unequal_spans(12, 3) == [Span(0, 2), Span(2, 6), Span(6, 12)]


def test_as_many_nodes_as_blocks_hold_one_each() -> None:
    assert [len(span) for span in unequal_spans(5, 5)] == [1] * 5


@pytest.mark.parametrize("count", [1, 3, 12, 13, 40])
def test_every_node_has_a_name_of_its_own(count: int) -> None:
    names = names_of(count)
    assert len(set(names)) == count
    assert names[:3] == list(NAMES[: min(count, 3)])
