from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from shardline.core.clock import SystemClock
from shardline.core.errors import SpanTooLarge, Unsupported
from shardline.core.spans import Span
from shardline.model import (
    ChainPlan,
    Crossing,
    LoadedSpan,
    Profile,
    Returned,
    cache_length,
    decode_rate,
    load_ends,
    load_span,
    measure_profile,
    profiling,
    trace,
)
from shardline.model.crossing import tensors_at
from shardline.model.profile_inputs import Shapes
from shardline.model.trees import leaves
from tests.parity.chains import CPU
from tests.parity.encoders import encoder, make_encoder
from tests.parity.zoo import Tiny, make, named

if TYPE_CHECKING:
    from pathlib import Path

ROOM_BYTES = 2**31
VARIED = ("llama", "gemma3", "falcon-alibi", "gpt2", "mamba", "qwen3-next", "gpt-oss")
"""Masks, positions, caches and experts of all kinds; the others are like one of these."""


class HandClock(SystemClock):
    """Each look at it takes a tenth of a second; so a measured step takes that long."""

    def __init__(self, tick_s: float = 0.1) -> None:
        self.now_s = 0.0
        self.tick_s = tick_s

    def monotonic_s(self) -> float:
        self.now_s += self.tick_s
        return self.now_s


def chain(name: str, directory: Path) -> ChainPlan:
    """Of a tiny model without weights."""
    config: Any = named(name).make_config()
    config.save_pretrained(directory)
    return trace(directory)


def measured(plan: ChainPlan, budget_s: float = 0.0, clock: SystemClock | None = None) -> Profile:
    return measure_profile(
        plan,
        dtype=torch.float32,
        device=CPU,
        memory_bytes=ROOM_BYTES,
        budget_s=budget_s,
        clock=clock,
    )


def shape(crossing: Crossing) -> list[list[tuple[Any, ...]]]:
    """For each block in turn: what it is given, tensors by their size and kind."""
    calls = [crossing.calls[place] for place in crossing.order]
    return [
        [
            (path, tuple(leaf.shape), leaf.dtype)
            if isinstance(leaf, torch.Tensor)
            else (path, leaf)
            for path, leaf in leaves((call.args, call.kwargs))
        ]
        for call in calls
    ]


# --- INPUTS ---


@pytest.mark.parametrize("tiny", [*map(named, VARIED)], ids=lambda tiny: tiny.name)
def test_blocks_are_given_what_a_real_caller_gives_them(tiny: Tiny, tmp_path: Path) -> None:
    make(tiny, tmp_path)
    plan = trace(tmp_path)
    sent: list[Crossing] = []

    def run(_: object, crossing: Crossing) -> Returned:
        sent.append(crossing)
        went = whole.run(crossing, cache)
        assert isinstance(went, Returned)
        return went

    whole = load_span(plan, Span(0, plan.blocks), dtype=torch.float32, device=CPU)
    cache = whole.new_cache()
    ends: Any = load_ends(plan, run, dtype=torch.float32, device=CPU)
    tokens = torch.randint(1, 90, (1, 9))
    ends.generate(tokens, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    shapes, span = Shapes(plan, torch.float32), Span(0, plan.blocks)
    made_up = LoadedSpan(plan, span, {block: shapes.block(block, CPU) for block in range(4)})
    filled = made_up.new_cache()
    for real, (new, before) in zip(sent, ((9, 0), (1, 9), (1, 10)), strict=True):
        made = shapes.crossing(span, batch=1, tokens=new, context_tokens=before, device=CPU)
        assert shape(made) == shape(real)
        assert [c.shape for c in made.carried] == [c.shape for c in real.carried]
        made_up.run(made, filled)
    assert cache_length(filled) == cache_length(cache) == 11


def test_a_made_up_block_is_as_a_real_one(llama: Path, plan: ChainPlan) -> None:
    real = load_span(plan, Span(2, 3), dtype=torch.bfloat16, device=CPU).blocks[2]
    made = Shapes(plan, torch.bfloat16).block(2, CPU)
    sizes = [
        [(name, p.shape, p.dtype) for name, p in block.named_parameters()] for block in (real, made)
    ]
    assert sizes[0] == sizes[1]
    assert all(p.std() > 0 for p in made.parameters())


def test_a_step_of_made_up_blocks_runs_and_fills_its_cache(plan: ChainPlan) -> None:
    shapes, span = Shapes(plan, torch.float32), Span(1, 3)
    loaded = LoadedSpan(plan, span, {block: shapes.block(block, CPU) for block in (1, 2)})
    cache = loaded.new_cache()
    for tokens, before in ((7, 0), (1, 7)):
        sent = shapes.crossing(span, batch=3, tokens=tokens, context_tokens=before, device=CPU)
        went = loaded.run(sent, cache)
        assert isinstance(went, Crossing)
        assert went.carried[0].isfinite().all()
    assert cache_length(cache) == 8


# --- KINDS ---


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("llama", [(0, 1, 2, 3)]),
        ("qwen2-moe", [(0, 2, 3), (1,)]),
        ("deepseek-v3", [(0,), (1, 2, 3)]),
        ("gemma3", [(0, 2), (1, 3)]),
        ("qwen3-next", [(0, 2), (1, 3)]),
    ],
)
def test_each_kind_of_block_is_measured_once(
    name: str, kinds: list[tuple[int, ...]], tmp_path: Path
) -> None:
    plan = chain(name, tmp_path)
    found = measured(plan)
    assert [kind.blocks for kind in found.kinds] == kinds
    assert found.output_bytes_per_token == 64 * 4
    for kind in found.kinds:
        span = Span(kind.blocks[0], kind.blocks[0] + 1)
        assert kind.parameter_bytes == plan.block_bytes(torch.float32)[span.start]
        assert kind.cache_bytes_per_token == plan.cache_bytes_per_token(torch.float32, span)
        assert kind.step_ms(1, 1) > 0


# --- TIME ---


def test_with_time_enough_every_size_is_measured_many_times(
    plan: ChainPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiling, "TURNS_MOST", 2)
    found = measured(plan, budget_s=12.0, clock=HandClock())
    (kind,) = found.kinds
    sizes = [(t.batch, t.tokens) for t in kind.timings if t.tokens <= 128]
    assert sizes == [(1, 1), (1, 16), (4, 1), (1, 64), (4, 16), (4, 64)]
    for timing in kind.timings:
        assert timing.repeats > 2
        # A look at the clock before and one after the steps that take turns.
        assert timing.low_ms == timing.median_ms == timing.high_ms == pytest.approx(100 / 2)


def test_without_time_the_first_sizes_are_measured_once(plan: ChainPlan) -> None:
    (kind,) = measured(plan, clock=HandClock()).kinds
    assert [(t.batch, t.tokens, t.repeats) for t in kind.timings] == [(1, 1, 1), (1, 16, 1)]


def test_a_prompt_longer_than_the_model_takes_is_not_tried(tmp_path: Path) -> None:
    config: Any = named("gpt2").make_config()
    config.n_positions = 12
    config.save_pretrained(tmp_path)
    (kind,) = measured(trace(tmp_path), budget_s=2.0, clock=HandClock()).kinds
    assert {timing.tokens for timing in kind.timings} == {1}
    assert {timing.context_tokens for timing in kind.timings} == {11}


def test_a_spans_own_weights_give_its_rate(plan: ChainPlan) -> None:
    loaded = load_span(plan, Span(1, 4), dtype=torch.float32, device=CPU)
    before = [parameter.clone() for parameter in loaded.parameters()]
    # A step of one block and then of all three takes one tick each.
    assert decode_rate(loaded, budget_s=1e6, clock=HandClock(0.5)) == pytest.approx(3 / 0.5)
    assert decode_rate(loaded, budget_s=0.0, clock=HandClock(0.5)) == pytest.approx(1 / 0.5)
    assert all(map(torch.equal, before, loaded.parameters()))


# --- WHAT CANNOT BE MEASURED ---


def test_a_block_that_does_not_fit_is_said_with_how_much_it_takes(plan: ChainPlan) -> None:
    with pytest.raises(SpanTooLarge, match=r"a block takes .* MiB, and 1.0 MiB are free here"):
        measure_profile(plan, dtype=torch.float32, device=CPU, memory_bytes=2**20)


def test_a_model_that_cannot_be_followed_is_named(
    plan: ChainPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise RuntimeError("no such kernel\non meta")

    shapes = Shapes(plan, torch.float32)
    monkeypatch.setattr(shapes, "_forward", breaks)
    with pytest.raises(Unsupported, match="LlamaForCausalLM cannot be measured: no such kernel on"):
        shapes.crossing(Span(0, 1), batch=1, tokens=1, context_tokens=0, device=CPU)


@pytest.mark.parametrize("name", ["bert", "convnext", "clip", "t5-encoder"])
def test_blocks_without_a_cache_are_measured_on_inputs_of_their_own(
    name: str, tmp_path: Path
) -> None:
    make_encoder(encoder(name), tmp_path)
    plan = trace(tmp_path)
    shapes = Shapes(plan, torch.float32)
    for start in range(plan.blocks):
        span = Span(start, start + 1)
        step = shapes.crossing(span, batch=3, tokens=5, context_tokens=9, device=CPU)
        assert step.batch == 3
        assert not plan.tokens or step.tokens == 5
        loaded = load_span(plan, span, dtype=torch.float32, device=CPU)
        gave = loaded.run(step, loaded.new_cache())
        if isinstance(gave, Crossing):  # the next block is measured on what this one gives
            later = shapes.crossing(
                Span(start + 1, start + 2), batch=3, tokens=5, context_tokens=9, device=CPU
            )
            given, made = (tuple(t.shape for t in one.carried) for one in (gave, later))
            assert given == made
        else:
            assert start + 1 in {chain.span.stop for chain in plan.chains}
            gave_ends = tensors_at(gave.output, gave.places)
            assert all(bool(tensor.isfinite().all()) for tensor in gave_ends)
        if start in (0, plan.blocks - 1):
            assert decode_rate(loaded, budget_s=0.0) > 0
