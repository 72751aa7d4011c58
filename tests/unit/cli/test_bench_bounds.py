"""Bounds: what a token asks, what a machine gives, and the share of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from shardline.cli.bench_bounds import (
    Rates,
    Work,
    best_rates,
    measure_rates,
    work_of,
)
from shardline.cli.demo import shipped_model
from shardline.model import trace
from tests.parity.zoo import named

if TYPE_CHECKING:
    from pathlib import Path

    from shardline.model import ChainPlan

CPU = torch.device("cpu")


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
