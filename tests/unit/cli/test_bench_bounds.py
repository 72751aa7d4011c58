"""Bounds: what a token asks, what a machine gives, and the share of it."""

from __future__ import annotations

import functools
import time
from types import FunctionType
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.autograd.profiler import profile

from shardline.cli import bench_bounds
from shardline.cli.bench_bounds import (
    KERNEL,
    PROFILED_STEPS,
    STEP,
    Rates,
    Work,
    best_rates,
    measure_rates,
    python_ms_per_layer,
    work_of,
)
from shardline.cli.demo import shipped_model
from shardline.core.errors import StepFailed
from shardline.kernels import can_gate, watched
from shardline.model import LoadedSpan, trace
from tests.parity.zoo import named

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from shardline.model import ChainPlan

    Watch = Callable[[Callable[..., Any], tuple[Any, ...]], Any]

CPU = torch.device("cpu")
SLEPT_US = 1000
here = pytest.mark.skipif(not can_gate(), reason="there are no kernels on this machine")


def plan_of(family: str, directory: Path) -> ChainPlan:
    config: Any = named(family).make_config()
    config.save_pretrained(directory)
    return trace(directory)


def test_a_share_is_what_was_done_over_what_could_be() -> None:
    work, rates = Work(decode_bytes=2e9, prefill_flop=1e9), Rates(20.0, 100.0)
    assert work.bandwidth_share(5.0, rates) == pytest.approx(0.5)
    assert work.compute_share(50, 2.0, rates) == pytest.approx(0.25)


def test_a_token_reads_all_blocks_and_a_tied_head_once() -> None:
    plan = trace(shipped_model())
    work = work_of(plan, torch.bfloat16, "bf16")
    assert work is not None
    assert work.decode_bytes == 2 * (sum(plan.block_elements) + plan.ends_elements)
    assert work.prefill_flop == 2 * sum(plan.block_elements)


def test_of_embeddings_that_are_not_the_head_one_row_is_read(tmp_path: Path) -> None:
    plan = plan_of("llama", tmp_path)
    config: Any = plan.config
    assert not config.tie_word_embeddings
    work = work_of(plan, torch.float32, "fp32")
    assert work is not None
    table = plan.vocabulary * plan.hidden_size
    assert work.decode_bytes == 4 * (sum(plan.block_elements) + plan.ends_elements - table)


@pytest.mark.parametrize(("weights", "bits"), [("fp32", 32), ("int8", 8), ("int4", 4)])
def test_the_number_in_a_kinds_name_is_its_bits(weights: str, bits: int) -> None:
    plan = trace(shipped_model())
    work = work_of(plan, torch.bfloat16, weights)
    assert work is not None
    blocks = work.decode_bytes - 2 * plan.ends_elements
    assert blocks == sum(plan.block_elements) * bits / 8


def test_experts_have_no_bound_as_few_of_them_work(tmp_path: Path) -> None:
    assert work_of(plan_of("qwen2-moe", tmp_path), torch.float32, "fp32") is None


def test_the_best_rates_are_the_highest_of_each() -> None:
    assert best_rates(Rates(1.0, 5.0), Rates(2.0, 4.0)) == Rates(2.0, 5.0)


def test_rates_are_measured() -> None:
    rates = measure_rates(torch.float32, CPU, quick=True)
    assert rates.read_gb_per_s > 0
    assert rates.matmul_gflop_per_s > 0


@pytest.fixture
def profiles(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was profiled, as soon as it begins."""
    begun: list[Any] = []

    def kept(**options: Any) -> Any:
        begun.append(profile(**options))
        return begun[-1]

    monkeypatch.setattr(bench_bounds, "profile", kept)
    return begun


@here
def test_a_kernels_time_is_not_pythons(
    monkeypatch: pytest.MonkeyPatch, profiles: list[Any]
) -> None:
    made: list[Callable[..., Any]] = []

    def slow(kernel: Callable[..., Any], *given: Any) -> Any:
        made.append(kernel)
        time.sleep(2 * SLEPT_US / 1e6)
        return kernel(*given)

    def slowly(watch: Watch) -> AbstractContextManager[None]:
        def slowed(kernel: Callable[..., Any], given: tuple[Any, ...]) -> Any:
            ours = not isinstance(kernel, FunctionType)
            return watch(functools.partial(slow, kernel) if ours else kernel, given)

        return watched(slowed)

    monkeypatch.setattr(bench_bounds, "watched", slowly)
    monkeypatch.setattr(bench_bounds, "PROFILED_STEPS", 2)
    plan = trace(shipped_model())
    found_us = 1e3 * plan.blocks * python_ms_per_layer(plan, torch.bfloat16, CPU)
    events = profiles[0].function_events
    kernels = [event for event in events if event.name == KERNEL]
    assert len(kernels) == len(made)
    assert all(kernel.cpu_time_total >= SLEPT_US for kernel in kernels)
    steps = [event for event in events if event.name == STEP]
    slept = [sum(one.name == KERNEL for one in step.cpu_children) for step in steps]
    assert min(slept) >= plan.blocks
    assert found_us <= min(
        step.cpu_time_total - SLEPT_US * count for step, count in zip(steps, slept, strict=True)
    )


@here
def test_what_is_measured_is_a_step_that_an_engine_does_again(
    monkeypatch: pytest.MonkeyPatch, profiles: list[Any]
) -> None:
    forward, measured = LoadedSpan.forward, list[bool]()

    def seen(span: LoadedSpan, *given: Any) -> Any:
        measured.append(bool(profiles))
        return forward(span, *given)

    monkeypatch.setattr(LoadedSpan, "forward", seen)
    assert python_ms_per_layer(trace(shipped_model()), torch.bfloat16, CPU) > 0
    assert sum(event.name == STEP for event in profiles[0].function_events) == PROFILED_STEPS
    assert measured
    assert not any(measured)


def test_a_step_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> list[StepFailed]:
        return [StepFailed("block 0 failed")]

    monkeypatch.setattr(LoadedSpan, "run_together", failing)
    with pytest.raises(StepFailed, match="block 0 failed"):
        python_ms_per_layer(trace(shipped_model()), torch.bfloat16, CPU)
