"""Rows of a batch as sessions of their own: cut, joined, and counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardline.cli.bench_crowd import (
    SETTLE_TOKENS,
    crowd,
    decode,
    joined_rows,
    prompts_of,
    rate,
    rows_of,
)
from shardline.cli.demo import shipped_model
from shardline.codec import Marker
from shardline.core.errors import NodeLost
from shardline.core.spans import Span
from shardline.model import Call, Crossing, LoadedSpan, Returned, load_span, quiet, trace

if TYPE_CHECKING:
    from transformers import DynamicCache

CPU = torch.device("cpu")


def crossing(batch: int, tokens: int = 3) -> Crossing:
    hidden = torch.rand(batch, tokens, 4)
    mask, shared = torch.rand(batch, 1, tokens, tokens), torch.rand(1, tokens, 2)
    kwargs = {"mask": mask, "angles": (shared, shared), "flag": True, "cache": Marker("cache")}
    return Crossing(0, (hidden,), (Call((Marker("carried", 0),), kwargs),), (0, 0))


@given(st.integers(1, 5))
def test_rows_are_the_batch_cut_and_joined_again(batch: int) -> None:
    whole = crossing(batch)
    rows = rows_of(whole)
    assert [row.batch for row in rows] == [1] * batch
    assert all(row.tokens == whole.tokens and row.order == whole.order for row in rows)
    joined = joined_rows([Returned((row.carried[0], Marker("cache"))) for row in rows])
    assert torch.equal(joined.output[0], whole.carried[0])
    assert joined.output[1] == Marker("cache")


def test_what_has_no_row_of_its_own_is_shared() -> None:
    whole = crossing(4)
    (call,) = rows_of(whole)[2].calls
    assert torch.equal(call.kwargs["mask"], whole.calls[0].kwargs["mask"][2:3])
    assert call.kwargs["angles"][0] is whole.calls[0].kwargs["angles"][0]
    assert (call.kwargs["flag"], call.args) == (True, (Marker("carried", 0),))


def test_one_caller_is_counted_from_its_first_stamp_to_its_last() -> None:
    assert rate([[10.0, 11.0, 12.0]], [3]) == pytest.approx(3.0)


def test_callers_are_counted_while_all_of_them_write() -> None:
    slow, fast = [0.0, 2.0, 4.0, 6.0], [0.5, 1.5, 2.5, 3.5]
    assert rate([slow, fast], [1, 2]) == pytest.approx((1 + 2 * 3) / 3.0)


def test_no_two_prompts_are_alike_and_equal_seeds_are() -> None:
    prompts = prompts_of(32, 19, 1792)
    assert len(cast("Any", prompts).unique(dim=0)) == 32
    assert torch.equal(prompts, prompts_of(32, 19, 1792))


class Lends:
    """A model whose blocks are here, each cache a session; counts them."""

    def __init__(self) -> None:
        self.plan = trace(shipped_model())
        self.dtype = torch.float32
        whole = Span(0, self.plan.blocks)
        self.span: LoadedSpan = load_span(self.plan, whole, dtype=torch.float32, device=CPU)
        self.sessions: dict[int, Any] = {}
        self.kept: list[Any] = []

    def lend(self, tokens: int) -> Lends:
        assert tokens > 0
        return self

    def __enter__(self) -> Any:
        return self

    def together(self, asked: list[tuple[DynamicCache, Crossing]]) -> list[Any]:
        for cache, crossing in asked:
            assert crossing.batch == 1
            if id(cache) not in self.sessions:
                self.sessions[id(cache)] = self.span.new_cache()
                self.kept.append(cache)
        return [self.span.run(step, self.sessions[id(cache)]) for cache, step in asked]

    def __exit__(self, *_: object) -> None: ...


def test_sessions_at_once_write_what_each_would_write_alone() -> None:
    lends: Any = Lends()
    prompts = prompts_of(2, 19, 1792)
    with quiet():
        with crowd(lends, 30, CPU) as ends:
            together = decode(ends, prompts, 2)
        assert len(lends.sessions) == 2
        alone: list[torch.Tensor] = []
        for prompt in prompts:
            with crowd(lends, 30, CPU) as ends:
                alone.append(decode(ends, prompt[None], 2).tokens)
    assert together.tokens.shape == (2, 2 + SETTLE_TOKENS)
    assert torch.equal(together.tokens, torch.cat(alone))
    assert together.tokens_per_s > 0


class Fails:
    """Generates for the first row only."""

    def generate(self, prompts: torch.Tensor, *, streamer: Any, **_: object) -> Any:
        if prompts[0, 0] == 1:
            raise NodeLost("ada went away")
        streamer.put(prompts)
        for _step in range(SETTLE_TOKENS):
            streamer.put(prompts)


def test_a_caller_that_fails_is_not_waited_for() -> None:
    with pytest.raises(NodeLost, match="ada went away"):
        decode(Fails(), torch.tensor([[0], [1]]), 4, callers=2)
