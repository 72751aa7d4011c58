"""Attention of many sessions in one call: near the exact one, and each session's bits its own."""

import ctypes
import importlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardline.kernels import Runs, attend, attention, can_attend
from shardline.kernels.attention_code import source
from shardline.kernels.compiling import engine_of
from shardline.kernels.softmax import BLOCK, LANES, softmax

Pair = tuple[torch.Tensor, torch.Tensor]
compiled: Any = attention._compiled  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
here = pytest.mark.skipif(compiled() is None, reason="there is no kernel on this machine")
widths = st.sampled_from([16, 32, 48, 64, 80, 96, 128, 256])


def some(*shape: int) -> torch.Tensor:
    return torch.randn(shape).bfloat16()


def a_pair(rows: int, heads: int, tokens: int, width: int, other: int | None = None) -> Pair:
    return some(rows, heads, tokens, width), some(rows, heads, tokens, other or width)


def exact(query: torch.Tensor, pair: Pair, scale: float) -> torch.Tensor:
    """Of (1, heads, rows, width), in float64: (1, rows, heads, width of values)."""
    groups = query.shape[1] // pair[0].shape[1]
    keys, values = (states.double().repeat_interleave(groups, 1) for states in pair)
    scores = query.double().transpose(0, 2) @ keys.transpose(-1, -2) * scale
    return (scores.softmax(-1) @ values).transpose(0, 2).transpose(1, 2)


def cut(pair: Pair, at: list[int]) -> list[Pair]:
    """In runs that end at these positions, each in memory of its own."""
    ends = [*at, pair[0].shape[2]]
    keys, values = pair
    return [
        (keys[:, :, first:stop].clone(), values[:, :, first:stop].clone())
        for first, stop in zip([0, *at], ends, strict=True)
    ]


@here
@given(
    rows=st.integers(1, 3),
    heads=st.tuples(st.integers(1, 3), st.integers(1, 9)),
    tokens=st.integers(1, 200),
    of=st.tuples(widths, widths),
    scale=st.sampled_from([0.1, 0.3, 2.0]),
)
def test_it_is_attention(
    rows: int, heads: tuple[int, int], tokens: int, of: tuple[int, int], scale: float
) -> None:
    shared, groups = heads
    query = some(1, shared * groups, rows, of[0])
    pair = a_pair(rows, shared, tokens, *of)
    found = attend(query, [(0, Runs([pair]))], scale=scale)
    expected = exact(query, pair, scale)
    assert found.shape == (1, rows, shared * groups, of[1])
    # Half a last place of bfloat16, and rounding in float32 beneath it.
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-5)


@here
def test_the_scale_is_that_of_torch_unless_it_is_said() -> None:
    query, pair = some(1, 4, 1, 64), a_pair(1, 2, 70, 64)
    assert torch.equal(
        attend(query, [(0, Runs([pair]))]), attend(query, [(0, Runs([pair]))], scale=0.125)
    )


@here
@given(data=st.data(), blocks=st.integers(1, 5), rest=st.integers(1, BLOCK), rows=st.integers(1, 2))
def test_however_keys_are_cut_the_bits_are_the_same(
    data: st.DataObject, blocks: int, rest: int, rows: int
) -> None:
    query, pair = some(1, 6, rows, 32), a_pair(rows, 2, blocks * BLOCK + rest, 32)
    at = data.draw(st.lists(st.integers(1, blocks), unique=True).map(sorted))
    whole = attend(query, [(0, Runs([pair]))])
    runs = Runs(cut(pair, [BLOCK * place for place in at]))
    assert torch.equal(attend(query, [(0, runs)]), whole)


@here
@given(
    sizes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 150)), min_size=1, max_size=6),
    groups=st.integers(1, 8),
    order=st.randoms(),
)
def test_a_sessions_bits_are_its_own_in_any_company(
    sizes: list[tuple[int, int]], groups: int, order: Any
) -> None:
    places = sum(rows for rows, _ in sizes)
    query = some(1, 2 * groups, places, 48)
    first, sessions = 0, list[tuple[int, Runs]]()
    for rows, tokens in sizes:
        sessions.append((first, Runs([a_pair(rows, 2, tokens, 48)])))
        first += rows
    alone = [
        attend(query[:, :, place : place + runs.rows], [(0, runs)]) for place, runs in sessions
    ]
    order.shuffle(sessions)
    assert torch.equal(attend(query, sessions), torch.cat(alone, 1))


@here
@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_change_nothing(
    threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    query = some(1, 12, 5, 64)
    sessions = [(row, Runs([a_pair(1, 3, 40 * row + 7, 64)])) for row in range(5)]
    alone = attend(query, sessions)
    monkeypatch.setattr(attention, "ALONE_MOST", 0)
    threads(count)
    assert torch.equal(attend(query, sessions), alone)


@here
@given(tokens=st.integers(1, 2 * BLOCK), rows=st.integers(1, 3), before=st.integers(0, 2))
def test_new_keys_and_values_go_to_where_they_belong(tokens: int, rows: int, before: int) -> None:
    query = some(1, 4, rows + 1, 32)
    pair = a_pair(rows, 2, before * BLOCK + 2 * BLOCK, 32)
    runs = Runs(cut(pair, [BLOCK * (place + 1) for place in range(before)]))
    runs.reach(tokens)
    fresh = some(1, rows + 1, 2, 32).transpose(1, 2), some(1, rows + 1, 2, 32).transpose(1, 2)
    seen = before * BLOCK + tokens
    keys, values = (states[:, :, :seen].clone() for states in pair)
    for states, new in zip((keys, values), fresh, strict=True):
        states[:, :, -1] = new[0, :, 1:].transpose(0, 1)
    found = attend(query, [(1, runs)], fresh)
    assert torch.equal(found[:, 1:], attend(query[:, :, 1:], [(0, Runs([(keys, values)]))]))
    assert not bool(found[:, 0].any()), "nobody asked at this place"
    again = attend(query, [(1, runs)])
    assert torch.equal(again, found), "what was written is there"


@here
def test_what_lies_behind_the_tokens_is_not_seen() -> None:
    query, pair = some(1, 4, 1, 32), a_pair(1, 2, 2 * BLOCK, 32)
    runs = Runs([pair])
    runs.reach(70)
    clean = attend(query, [(0, runs)])
    for states in pair:
        states[:, :, 70:] = math.nan
    assert torch.equal(attend(query, [(0, runs)]), clean)


@here
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["query", "keys", "values"])
def test_what_is_no_number_stays_in_its_session_and_its_heads(bad: float, which: str) -> None:
    query, pairs = some(1, 8, 3, 32), [a_pair(1, 2, 100, 32) for _ in range(3)]
    query[0, :, :, 3] = 1.0
    sessions = [(row, Runs([pair])) for row, pair in enumerate(pairs)]
    clean = attend(query, sessions)
    if which == "query":
        query[0, 5, 1, 3] = bad
    else:
        pairs[1][which == "values"][0, 1, 20, 3] = bad
    found = attend(query, sessions)
    assert torch.equal(found[:, ::2], clean[:, ::2])
    assert torch.equal(found[:, 1, :4], clean[:, 1, :4])
    expected = exact(query[:, :, 1:2], pairs[1], 32**-0.5)
    assert torch.equal(found[:, 1:2].isnan(), expected.isnan())
    rest = expected.isfinite()
    torch.testing.assert_close(found[:, 1:2].double()[rest], expected[rest], rtol=2**-8, atol=1e-5)


@here
@pytest.mark.parametrize("tokens", [10, BLOCK, 2 * BLOCK + 5])
def test_a_beginning_that_is_all_minus_infinity_counts_for_nothing(tokens: int) -> None:
    query, (keys, values) = some(1, 2, 1, 16).abs(), a_pair(1, 1, 2 * BLOCK + 30, 16)
    keys[:, :, :tokens, 3] = -math.inf
    found = attend(query, [(0, Runs([(keys, values)]))], scale=1.0)
    expected = exact(query, (keys[:, :, tokens:], values[:, :, tokens:]), 1.0)
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-5)
    nothing = attend(query, [(0, Runs([(keys[:, :, :tokens], values[:, :, :tokens])]))], scale=1.0)
    assert bool(nothing.isnan().all()), "as softmax is of minus infinity alone"


@here
@pytest.mark.parametrize("size", [1e4, 1e15, -1e15])
def test_huge_scores_do_not_overflow(size: float) -> None:
    query, (keys, values) = torch.ones(1, 2, 1, 16).bfloat16(), a_pair(1, 1, 130, 16)
    keys[:] = size
    keys[0, 0, 77] = size + abs(size) / 2
    found = attend(query, [(0, Runs([(keys, values)]))], scale=1.0)
    assert torch.equal(found[0, 0, 0], values[0, 0, 77])


@here
@given(x=st.lists(st.floats(-87, 0, width=32), min_size=LANES, max_size=LANES))
def test_its_powers_of_e_are_as_exact_as_float32(x: list[float]) -> None:
    found = powers(x)
    expected = torch.tensor(x, dtype=torch.float64).exp()
    torch.testing.assert_close(found.double(), expected, rtol=1.2e-7, atol=0)


@here
def test_beyond_the_least_power_there_is_nothing() -> None:
    found = powers([0.0, -88.0, -1e30, -math.inf, math.nan] + [-1.0] * (LANES - 5))
    assert torch.equal(found[:4], torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert bool(found[4].isnan())


def powers(x: list[float]) -> torch.Tensor:
    numbers = torch.tensor(x, dtype=torch.float32)
    engine = engine_of(softmax() + POWER)
    assert engine is not None
    engine.function("power", None, ctypes.c_void_p)(numbers.data_ptr())
    return numbers


POWER = """
define void @power(ptr %numbers) {
  %x = load <16 x float>, ptr %numbers, align 4
  %y = call <16 x float> @exp(<16 x float> %x)
  store <16 x float> %y, ptr %numbers, align 4
  ret void
}
"""


@here
def test_states_may_lie_anywhere() -> None:
    query, (keys, values) = some(1, 4, 2, 32), a_pair(2, 2, 20, 32)
    clean = attend(query, [(0, Runs([(keys, values)]))])
    wide = torch.zeros(2, 20, 2, 67).bfloat16()
    odd = wide[..., 3:35].transpose(1, 2).copy_(keys)
    turned = values.transpose(-1, -2).contiguous().transpose(-1, -2)
    spread = query.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(attend(spread, [(0, Runs([(odd, turned)]))]), clean)


def runs(rows: int = 1, heads: int = 2, tokens: int = 5, width: int = 32) -> Runs:
    return Runs([a_pair(rows, heads, tokens, width)])


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ([a_pair(1, 2, 5, 24)], "of width 24"),
        ([a_pair(1, 2, 5, 272)], "of width 272"),
        ([a_pair(1, 2, 0, 32)], "not of whole blocks"),
        ([a_pair(1, 2, BLOCK - 1, 32), a_pair(1, 2, 5, 32)], "not of whole blocks"),
        ([(torch.zeros(1, 2, 5, 32), some(1, 2, 5, 32))], "float32 of width"),
        ([(some(1, 2, 5, 32), torch.zeros(1, 2, 5, 32))], "float32 of width"),
        ([(some(1, 2, 5, 32).to("meta"), some(1, 2, 5, 32))], "on meta"),
        ([(some(1, 2, 5, 32), some(1, 2, 6, 32))], "beside others"),
        ([(some(1, 2, 5, 32), some(1, 1, 5, 32))], "beside others"),
        ([a_pair(1, 2, BLOCK, 32), a_pair(2, 2, 5, 32)], "beside others"),
        ([a_pair(1, 2, BLOCK, 48), a_pair(1, 2, 5, 32)], "beside others"),
    ],
)
def test_runs_that_the_kernel_cannot_read_are_refused(pairs: list[Pair], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Runs(pairs)


@pytest.mark.parametrize("tokens", [0, -1, 6])
def test_there_is_no_more_than_there_is_room_for(tokens: int) -> None:
    with pytest.raises(ValueError, match="room for 5"):
        runs().reach(tokens)


@here
@pytest.mark.parametrize(
    ("query", "sessions", "fresh", "says"),
    [
        (some(1, 4, 1, 48), [(0, runs())], None, "to 2 heads"),
        (some(2, 4, 1, 32), [(0, runs())], None, "to 2 heads"),
        (some(1, 3, 1, 32), [(0, runs())], None, "to 2 heads"),
        (some(1, 256, 1, 32), [(0, runs())], None, "to 2 heads"),
        (some(1, 4, 1, 32).float(), [(0, runs())], None, "not in bfloat16"),
        (some(1, 4, 1, 32), [(1, runs())], None, "from 1 on, of 1 places"),
        (some(1, 4, 1, 32), [(-1, runs())], None, "from -1 on"),
        (some(1, 4, 2, 32), [(1, runs(rows=2))], None, "2 rows from 1 on"),
        (some(1, 4, 2, 32), [(0, runs()), (1, runs(heads=4))], None, "beside"),
        (some(1, 4, 2, 32), [(0, runs()), (1, runs(width=16))], None, "beside"),
        (some(1, 4, 2, 32), [(0, runs(rows=2))], a_pair(1, 2, 1, 32), "to 2 heads"),
        (some(1, 4, 2, 32), [(0, runs(rows=2))], a_pair(1, 1, 2, 32), "to 2 heads"),
        (some(1, 4, 2, 32), [(0, runs(rows=2))], a_pair(1, 2, 2, 16), "to 2 heads"),
        (some(1, 4, 1, 32), [(0, runs())], (torch.zeros(1, 2, 1, 32),) * 2, "not in bfloat16"),
    ],
)
def test_what_does_not_go_together_is_refused(
    query: torch.Tensor, sessions: list[tuple[int, Runs]], fresh: Pair | None, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        attend(query, sessions, fresh)


@here
def test_it_says_for_what_it_is() -> None:
    query, pair = some(1, 4, 1, 32), a_pair(1, 2, 5, 32)
    assert can_attend(query, *pair)
    assert not can_attend(query.float(), *pair)
    assert not can_attend(some(1, 3, 1, 32), *pair)
    assert not can_attend(some(1, 4, 1, 24), *a_pair(1, 2, 5, 24))
    assert not can_attend(query, *a_pair(1, 2, 0, 32))
    assert not can_attend(query.to("meta"), *pair)
    assert not can_attend(query.requires_grad_(), *pair)


def test_the_text_is_llvms_wherever_it_is_not_run() -> None:
    llvm: Any = pytest.importorskip("llvmlite.binding")
    llvm.parse_assembly(source()).verify()


def test_without_its_library_there_is_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    compiled.cache_clear()
    try:
        assert not can_attend(some(1, 4, 1, 32), *a_pair(1, 2, 5, 32))
        with pytest.raises(ValueError, match="no kernel"):
            attend(some(1, 4, 1, 32), [(0, runs())])
    finally:
        compiled.cache_clear()
