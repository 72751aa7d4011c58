"""Measures what a model's blocks cost on a device, one block at a time (PAPER section 2).

Blocks of one structure are measured once, with weights and inputs that are made up: nothing of a
checkpoint is read. The weights take turns with copies of themselves until they are more than a
processor's cache holds, as a span's blocks do. Steps are timed after a warm-up, again and again
while the budget lasts; the median counts, and the quartiles say how sure it is.
"""

from __future__ import annotations

import copy
import platform
import sys
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, Final

import torch

from shardline.core.clock import SystemClock
from shardline.core.errors import ShardlineError, SpanTooLarge
from shardline.core.spans import Span
from shardline.core.units import format_bytes
from shardline.model.fingerprints import config_fingerprint
from shardline.model.library import quiet
from shardline.model.packed import products
from shardline.model.profile_inputs import Shapes, same_blocks
from shardline.model.profiles import BlockKind, Profile, Setup, Timing, fit
from shardline.model.span import LoadedSpan

if TYPE_CHECKING:
    from shardline.core.clock import Clock
    from shardline.model.chain import ChainPlan
    from shardline.model.cross import SessionCache
    from shardline.model.crossing import Crossing

__all__ = ["decode_rate", "measure_profile", "setup_of"]

CONTEXT_TOKENS: Final = 128
"""What a decode step's cache holds already. Attention over a longer one takes longer: reading so
much cache beside the weights."""
POINTS: Final = ((1, 1), (1, 16), (4, 1), (1, 64), (4, 16), (1, 256), (4, 64))
"""Batch and tokens, cheap ones first; the first POINTS_LEAST whatever they take."""
POINTS_LEAST: Final = 2
REPEATS_MOST: Final = 50
BUDGET_S: Final = 10.0
"""For a whole model. More makes the quartiles narrower on a busy machine."""
TURN_BYTES: Final = 2**26
"""Weights that take turns: more than the last cache of one core of most processors."""
TURNS_MOST: Final = 8
OTHER_BYTES: Final = 2**28
"""Room for activations and cache beside the weights."""
QUICK_STEPS: Final = 4
"""A quick measurement's steps go through as many blocks as let so many steps fit its budget."""
QUICK_REPEATS: Final = 5
QUICK_TOKENS: Final = 17
"""Of a quick measurement's sequence: filling a long cache would take longer than all its steps."""


@dataclass(frozen=True, slots=True)
class _Bench:
    """Where and how long to measure."""

    shapes: Shapes
    device: torch.device
    clock: Clock
    context_tokens_most: int


def setup_of(plan: ChainPlan, *, dtype: torch.dtype, device: torch.device) -> Setup:
    """What a profile would be true of, here and now; raises NoSuchModel or CorruptWeights."""
    return Setup(
        fingerprint=config_fingerprint(plan.model_dir),
        device=_device_name(device),
        dtype=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
        products=products(dtype, device),
    )


def measure_profile(  # noqa: PLR0913  (each is one thing to choose)
    plan: ChainPlan,
    *,
    dtype: torch.dtype,
    device: torch.device,
    memory_bytes: int,
    budget_s: float | None = None,
    clock: Clock | None = None,
) -> Profile:
    """Measure a block of each kind, in about so many seconds (BUDGET_S); slow devices take longer.

    Raises SpanTooLarge if a block does not fit into the memory, and Unsupported for a model that
    cannot be followed on shapes.
    """
    clock = clock or SystemClock()
    setup = setup_of(plan, dtype=dtype, device=device)
    shapes = Shapes(plan, dtype)
    groups = same_blocks(plan, shapes.blocks)
    _check_room(max(plan.block_bytes(dtype)), memory_bytes)
    bench = _Bench(shapes, device, clock, plan.context_tokens or sys.maxsize)
    until_s = clock.monotonic_s() + (BUDGET_S if budget_s is None else budget_s)
    kinds: list[BlockKind] = []
    for place, group in enumerate(groups):
        left_s = max(until_s - clock.monotonic_s(), 0.0) / (len(groups) - place)
        kinds.append(_kind(plan, bench, group, dtype, left_s))
    return Profile(
        setup=setup,
        model=plan.model_dir.resolve().name,
        measured_at_s=clock.wall_s(),
        output_bytes_per_token=plan.step_elements * dtype.itemsize,
        kinds=tuple(kinds),
    )


def decode_rate(loaded: LoadedSpan, *, budget_s: float, clock: Clock | None = None) -> float:
    """Single-token steps a second through one block of these, measured with their own weights.

    Takes about the budget at most if one block's step is much quicker. Raises Unsupported for a
    model that cannot be followed on shapes, and StepFailed.
    """
    clock = clock or SystemClock()
    plan, start = loaded.plan, loaded.span.start
    most = min(plan.context_tokens or sys.maxsize, QUICK_TOKENS)
    bench = _Bench(Shapes(plan, loaded.dtype), loaded.device, clock, most)
    one = Span(start, start + 1)
    (step_s,) = _samples(bench, [loaded.part(one)], (1, 1), 0.0)
    fitting = int(min(budget_s / QUICK_STEPS / max(step_s, 1e-9), len(loaded.blocks)))
    part = loaded.part(Span(start, start + max(fitting, 1)))
    seconds = _samples(bench, [part], (1, 1), budget_s / 2, repeats=QUICK_REPEATS)
    return len(part.blocks) / max(min(seconds), 1e-9)  # load is told apart from speed


def _check_room(block_bytes: int, memory_bytes: int) -> None:
    asked_bytes = _turns(block_bytes) * block_bytes + OTHER_BYTES
    if asked_bytes > memory_bytes:
        asked, free = format_bytes(asked_bytes), format_bytes(memory_bytes)
        raise SpanTooLarge(f"measuring a block takes {asked}, and {free} are free here")


def _turns(block_bytes: int) -> int:
    """Copies of a block that are together more than a processor's cache."""
    return min(-(-TURN_BYTES // max(block_bytes, 1)), TURNS_MOST)


def _kind(
    plan: ChainPlan, bench: _Bench, blocks: tuple[int, ...], dtype: torch.dtype, budget_s: float
) -> BlockKind:
    """Measure the first of these blocks, for all of them."""
    span = Span(blocks[0], blocks[0] + 1)
    turns = _turns(plan.block_bytes(dtype)[span.start])
    copies = [bench.shapes.block(span.start, bench.device) for _ in range(turns)]
    loaded = [LoadedSpan(plan, span, {span.start: block}) for block in copies]
    until_s = bench.clock.monotonic_s() + budget_s
    timings: list[Timing] = []
    position_s = inf
    for place, (batch, tokens) in enumerate(POINTS):
        left_s = until_s - bench.clock.monotonic_s()
        too_long = 2 * turns * position_s * batch * tokens > left_s  # warm-up and one repeat
        if tokens > bench.context_tokens_most or (place >= POINTS_LEAST and too_long):
            continue
        share_s = max(left_s, 0.0) / (len(POINTS) - place)
        seconds = _samples(bench, loaded, (batch, tokens), share_s)
        timings.append(_timing(seconds, batch, tokens, _context(bench, tokens)))
        position_s = min(position_s, timings[-1].median_ms / 1e3 / (batch * tokens))
    prompts = [timing for timing in timings if timing.tokens > 1]
    return BlockKind(
        name=type(bench.shapes.blocks[span.start]).__name__,
        blocks=blocks,
        parameter_bytes=plan.block_bytes(dtype)[span.start],
        cache_bytes_per_token=plan.cache_bytes_per_token(dtype, span),
        cache_bytes_fixed=plan.cache_bytes_fixed(dtype, span),
        timings=tuple(timings),
        decode=fit([timing for timing in timings if timing.tokens == 1]),
        prefill=fit(prompts if len(prompts) > 1 else timings),
    )


def _context(bench: _Bench, tokens: int) -> int:
    """What a step's cache holds already: a prompt's nothing."""
    return 0 if tokens > 1 else max(min(CONTEXT_TOKENS, bench.context_tokens_most - tokens), 0)


def _samples(
    bench: _Bench,
    loaded: list[LoadedSpan],
    size: tuple[int, int],
    budget_s: float,
    *,
    repeats: int = REPEATS_MOST,
) -> list[float]:
    """Seconds of one step, of batch and tokens, each the mean over all that take turns.

    After a warm-up, at least one, and more until the budget is spent.
    """
    (batch, tokens), span = size, loaded[0].span
    context_tokens = _context(bench, tokens)

    def crossing(tokens: int, context_tokens: int) -> Crossing:
        return bench.shapes.crossing(
            span,
            batch=batch,
            tokens=tokens,
            context_tokens=context_tokens,
            device=bench.device,
        )

    step = crossing(tokens, context_tokens)
    before = loaded[0].new_cache()
    if context_tokens:
        with quiet():
            loaded[0].run(crossing(context_tokens, 0), before)

    def sweep() -> float:
        caches: list[SessionCache] = [copy.deepcopy(before) for _ in loaded]
        _settle(bench.device)
        start_s = bench.clock.monotonic_s()
        for blocks, cache in zip(loaded, caches, strict=True):
            (found,) = blocks.run_together([(step, cache)])  # as a node does
            if isinstance(found, ShardlineError):
                raise found
        _settle(bench.device)
        return (bench.clock.monotonic_s() - start_s) / len(loaded)

    with quiet():
        until_s = bench.clock.monotonic_s() + budget_s
        sweep()
        found = [sweep()]
        while len(found) < repeats and bench.clock.monotonic_s() < until_s:
            found.append(sweep())
    return found


def _timing(seconds: list[float], batch: int, tokens: int, context_tokens: int) -> Timing:
    low_s, median_s, high_s = quantiles(
        seconds if len(seconds) > 1 else seconds * 2, n=4, method="inclusive"
    )
    return Timing(
        batch=batch,
        tokens=tokens,
        context_tokens=context_tokens,
        median_ms=1e3 * median_s,
        low_ms=1e3 * low_s,
        high_ms=1e3 * high_s,
        repeats=len(seconds),
    )


def _settle(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _device_name(device: torch.device) -> str:
    """The hardware's own name, as far as the system tells it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        name = next(named, name)
    return name if device.type == "cpu" else f"{name} {device.type}"
