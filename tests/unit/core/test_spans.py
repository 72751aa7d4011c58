from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.core.errors import BlocksOutOfRange
from shardline.core.spans import Span, gaps

spans = st.tuples(st.integers(0, 40), st.integers(1, 12)).map(lambda p: Span(p[0], p[0] + p[1]))


@pytest.mark.parametrize(("start", "stop"), [(3, 3), (4, 3), (-1, 2)])
def test_a_span_is_never_empty_or_negative(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="empty or negative"):
        Span(start, stop)


def test_a_span_knows_its_blocks() -> None:
    span = Span(2, 5)
    assert (len(span), 2 in span, 4 in span, 5 in span, str(span)) == (3, True, True, False, "2:5")


@given(spans)
def test_what_a_span_prints_it_reads(span: Span) -> None:
    assert Span.parse(str(span), blocks=span.stop) == span


@pytest.mark.parametrize(
    "text", ["", "3", "a:b", "3:3", "4:2", "0:13", "-1:2", "1:2:3", " 1:2", "²:3"]
)
def test_nonsense_names_what_was_wanted(text: str) -> None:
    with pytest.raises(BlocksOutOfRange):
        Span.parse(text, blocks=12)


@given(st.lists(spans, max_size=6), st.integers(1, 50))
def test_gaps_are_exactly_the_blocks_that_nobody_holds(held: list[Span], blocks: int) -> None:
    missing = gaps(held, blocks)
    for block in range(blocks):
        assert any(block in gap for gap in missing) != any(block in span for span in held)
    assert all(gap.stop <= blocks for gap in missing)
    assert all(a.stop < b.start for a, b in pairwise(missing))
