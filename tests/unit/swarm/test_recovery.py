import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.core.ids import NodeId
from shardline.core.spans import Span
from shardline.swarm import Gap, Hop, first_gap, mend


@st.composite
def chains(draw: st.DrawFn) -> tuple[Hop, ...]:
    ends = sorted(draw(st.sets(st.integers(1, 40), min_size=1, max_size=8)))
    starts = [0, *ends[:-1]]
    return tuple(
        Hop(NodeId(f"{index % 3:064x}"), Span(start, stop))
        for index, (start, stop) in enumerate(zip(starts, ends, strict=True))
    )


@given(chains(), st.data())
def test_filling_gap_after_gap_gives_a_whole_chain_without_lost_seats(
    chain: tuple[Hop, ...], data: st.DataObject
) -> None:
    blocks = chain[-1].span.stop
    lost = data.draw(st.sets(st.sampled_from([hop.span.start for hop in chain])))
    kept = [hop for hop in chain if hop.span.start not in lost]
    fills = 0
    while (gap := first_gap(chain, lost)) is not None:
        fresh = (Hop(NodeId("f" * 64), gap.span),)
        lost -= {hop.span.start for hop in chain[gap.first : gap.stop]}
        chain = mend(chain, gap, fresh)
        fills += 1
    covered = [block for hop in chain for block in range(hop.span.start, hop.span.stop)]
    assert covered == list(range(blocks))
    assert [hop for hop in chain if hop.node != "f" * 64] == kept
    assert fills <= len(kept) + 1


def test_neighbours_make_one_gap() -> None:
    a, b, c, d = (Hop(NodeId(f"{i:064x}"), Span(i, i + 1)) for i in range(4))
    assert first_gap((a, b, c, d), {1, 2}) == Gap(1, 3, Span(1, 3))
    assert first_gap((a, b, c, d), {0, 3}) == Gap(0, 1, Span(0, 1))
    assert first_gap((a, b, c, d), set()) is None


def test_hops_that_leave_blocks_out_are_refused() -> None:
    a, b = (Hop(NodeId(f"{i:064x}"), Span(2 * i, 2 * i + 2)) for i in range(2))
    with pytest.raises(ValueError, match="do not fill 2:4"):
        mend((a, b), Gap(1, 2, Span(2, 4)), (Hop(a.node, Span(2, 3)),))
