from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from shardline.codec import Marker
from shardline.core.errors import PeerFault, StepFailed
from shardline.core.spans import Span
from shardline.model import (
    Call,
    ChainPlan,
    Crossing,
    LoadedSpan,
    Returned,
    cache_length,
    load_span,
    trace,
)
from tests.parity.chains import CPU
from tests.parity.zoo import make, named

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def span(plan: ChainPlan) -> LoadedSpan:
    return load_span(plan, Span(1, 3), dtype=torch.float32, device=CPU)


def crossing(tokens: int = 3, **changes: Any) -> Crossing:
    turns = torch.ones(1, tokens, 16)
    kwargs = {
        "position_embeddings": (turns, turns),
        "attention_mask": None,
        "past_key_values": Marker("cache"),
    }
    call = Call((Marker("carried"),), kwargs)
    fields: dict[str, Any] = {
        "start": 1,
        "carried": (torch.randn(1, tokens, 64),),
        "calls": (call,),
        "order": (0, 0, 0),
    }
    return Crossing(**(fields | changes))


def test_a_step_goes_on_to_the_next_block_and_the_cache_grows(span: LoadedSpan) -> None:
    cache = span.new_cache()
    for length in (3, 4, 5):
        sent = crossing(3 if length == 3 else 1)
        result = span.run(sent, cache)
        assert isinstance(result, Crossing)
        assert (result.start, result.order) == (3, (0,))
        assert result.carried[0].shape == sent.carried[0].shape
        assert cache_length(cache) == cache.get_seq_length() == length
        per_token = span.plan.cache_bytes_per_token(torch.float32, span.span)
        assert cache.memory_bytes == length * per_token


def test_the_cache_answers_from_a_layer_that_the_span_holds(span: LoadedSpan) -> None:
    cache = span.new_cache()
    span.run(crossing(5), cache)
    assert cache.get_seq_length() == 5
    assert cache.get_mask_sizes(1, 0) == (6, 0)


def test_a_run_without_a_cache_remembers_nothing(span: LoadedSpan) -> None:
    sent = crossing()
    one, two = (span.run(sent, None) for _ in range(2))
    assert isinstance(one, Crossing)
    assert isinstance(two, Crossing)
    assert torch.equal(one.carried[0], two.carried[0])


def test_sessions_do_not_touch_each_other(span: LoadedSpan) -> None:
    sent, other = crossing(), crossing()
    alone = span.run(sent, span.new_cache())
    caches = span.new_cache(), span.new_cache()
    span.run(other, caches[0])
    mixed = span.run(sent, caches[1])
    assert isinstance(alone, Crossing)
    assert isinstance(mixed, Crossing)
    assert torch.equal(alone.carried[0], mixed.carried[0])


def test_the_last_span_returns(plan: ChainPlan) -> None:
    last = load_span(plan, Span(3, 4), dtype=torch.float32, device=CPU)
    result = last.run(crossing(start=3, order=(0,)), last.new_cache())
    assert isinstance(result, Returned)
    assert result.carried[0].shape == (1, 3, 64)


@pytest.mark.parametrize(
    "changes",
    [
        {"start": 0, "order": (0, 0, 0, 0)},
        {"order": (0, 0)},
        {"order": (0,) * 5},
        {"carried": (torch.zeros(1, 3, 65),)},
        {"carried": (torch.zeros(1, 3, 64),) * 2},
        {"calls": (Call((), {}),)},
        {"calls": (Call((torch.zeros(1, 3, 64),), {}),)},
        {"calls": (Call((Marker("cache"),), {}),)},
        {"calls": (Call((Marker("carried"),), {"x" * 10_000: Marker("carried", 1)}),)},
    ],
)
def test_a_crossing_that_does_not_fit_is_the_peers_fault(
    span: LoadedSpan, changes: dict[str, Any]
) -> None:
    with pytest.raises(PeerFault) as caught:
        span.run(crossing(**changes), span.new_cache())
    assert len(str(caught.value)) < 200, "what a peer sent is not said again"


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"position_embeddings": None},
        {"position_embeddings": (torch.ones(1, 7, 16), torch.ones(1, 7, 16))},
        {"position_embeddings": (torch.ones(1, 3, 16),) * 2, "attention_mask": torch.ones(5)},
        {"position_embeddings": (torch.ones(1, 3, 16),) * 2, "past_key_values": 3},
        {"hidden_states": 1},
    ],
)
def test_a_block_that_cannot_run_its_inputs_fails_the_step_only(
    span: LoadedSpan, kwargs: dict[str, Any]
) -> None:
    call = Call((Marker("carried"),), kwargs)
    with pytest.raises(StepFailed, match="block 1 failed") as caught:
        span.run(crossing(calls=(call,)), span.new_cache())
    assert "\n" not in str(caught.value)
    span.run(crossing(), span.new_cache())


def test_no_graph_is_recorded(span: LoadedSpan) -> None:
    carried = (torch.randn(1, 3, 64, requires_grad=True),)
    result = span.run(crossing(carried=carried), None)
    assert isinstance(result, Crossing)
    assert not result.carried[0].requires_grad


def test_a_span_of_recurrent_blocks_counts_its_tokens(tmp_path: Path) -> None:
    make(named("mamba"), tmp_path)
    plan = trace(tmp_path)
    span = load_span(plan, Span(1, 3), dtype=torch.float32, device=CPU)
    cache = span.new_cache()
    call = Call((Marker("carried"),), {"cache_params": Marker("cache"), "attention_mask": None})
    for tokens in (6, 1):
        span.run(crossing(tokens, calls=(call,)), cache)
    assert cache_length(cache) == cache.get_seq_length() == 7
    assert cache.memory_bytes == plan.cache_bytes_fixed(torch.float32, span.span)
