"""What a machine could do at most, measured beside what it does, and what Python costs it.

Decoding one token reads every weight once, and a prompt multiplies by every weight for each of its
tokens. So the bounds are the weights' bytes over the rate at which memory is read, and twice the
weights times the tokens over the rate of a large matrix product. Both rates are measured with torch
on the threads that a node has. Attention and its cache are in neither, so shares are a little low.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.autograd.profiler import profile, record_function
from torch.nn import functional
from transformers import DynamicCache

from shardline.core.errors import ShardlineError
from shardline.core.spans import Span
from shardline.kernels import watched
from shardline.model import Returned, load_ends, load_span, quiet

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import Cache

    from shardline.model import ChainPlan, Crossing

__all__ = ["Rates", "Work", "best_rates", "measure_rates", "python_ms_per_layer", "work_of"]

READ_BYTES: Final = 2**29
"""More than any processor's cache holds."""
READ_BYTES_QUICK: Final = 2**25
SIDE: Final = 2048
"""Of the matrices of the product: as wide as a 1B model's."""
SIDE_QUICK: Final = 512
SIDE_CUDA: Final = 8192
REPEATS: Final = 10
PROFILED_STEPS: Final = 8
WARM_STEPS: Final = 4
"""The first of them is tried in several ways; the others, and the measured ones, are as later."""
PROBE_TOKENS: Final = 17
STEP: Final = "shardline step"
KERNEL: Final = "shardline kernel"
BITS: Final = re.compile(r"\d+")
EXPERTS: Final = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True, slots=True)
class Rates:
    """What memory and processor give at most."""

    read_gb_per_s: float
    matmul_gflop_per_s: float


@dataclass(frozen=True, slots=True)
class Work:
    """What a token asks of a machine."""

    decode_bytes: float
    """Weights that are read for one token: all blocks and the head."""
    prefill_flop: float
    """For each token of a prompt; the head works on the last one only."""

    def bandwidth_share(self, tokens_per_s: float, rates: Rates) -> float:
        """Of the bound at one session's decoding; 1.0 is as fast as memory can be read."""
        return tokens_per_s * self.decode_bytes / (1e9 * rates.read_gb_per_s)

    def compute_share(self, tokens: int, seconds: float, rates: Rates) -> float:
        """Of the bound at reading a prompt of so many tokens."""
        return tokens * self.prefill_flop / (1e9 * rates.matmul_gflop_per_s * seconds)


def work_of(plan: ChainPlan, dtype: torch.dtype, weights: str) -> Work | None:
    """What a token of this model asks; None for mixtures of experts, where few weights work.

    The number in the name of `weights` is the bits of one, as in bf16, fp32, int8 or int4; scales
    and columns that are kept in more bits are not counted. Embeddings and head are of `dtype`.
    """
    whole: Any = plan.config
    config = whole.get_text_config(decoder=True)
    if any(getattr(config, name, None) for name in EXPERTS):
        return None
    elements = sum(plan.block_elements)
    table = plan.vocabulary * plan.hidden_size
    tied = bool(getattr(config, "tie_word_embeddings", False))
    head = plan.ends_elements - (0 if tied else table)  # one row of the embeddings is read
    found = BITS.search(weights)
    bits = int(found[0]) if found else 8 * dtype.itemsize
    return Work(elements * bits / 8 + head * dtype.itemsize, 2 * elements)


def best_rates(*rates: Rates) -> Rates:
    """The highest of each: other programs can only lower them."""
    return Rates(
        max(one.read_gb_per_s for one in rates), max(one.matmul_gflop_per_s for one in rates)
    )


def measure_rates(dtype: torch.dtype, device: torch.device, *, quick: bool = False) -> Rates:
    """Read a large array, and multiply matrices, as fast as torch can with its threads now."""
    numbers = torch.ones((READ_BYTES_QUICK if quick else READ_BYTES) // 4, device=device)
    read_s = _quickest_s(numbers.amax, device)
    side = SIDE_QUICK if quick else SIDE_CUDA if device.type == "cuda" else SIDE
    matrix = torch.ones(side, side, dtype=dtype, device=device)
    product_s = _quickest_s(lambda: functional.linear(matrix, matrix), device)
    return Rates(numbers.nbytes / read_s / 1e9, 2 * side**3 / product_s / 1e9)


def _quickest_s(work: Callable[[], torch.Tensor], device: torch.device) -> float:
    """Seconds of the quickest of REPEATS, after a warm-up."""
    seconds: list[float] = []
    with torch.no_grad():
        for _ in range(REPEATS + 1):
            started_s = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - started_s)
    return min(seconds[1:])


def python_ms_per_layer(plan: ChainPlan, dtype: torch.dtype, device: torch.device) -> float:
    """What a block's decode step takes outside of torch's operators and our kernels: Python.

    All blocks run in this process as a node's engine runs them, and torch's profiler takes the
    operators' and kernels' times off each step's; the quickest step counts, as other programs only
    add. What the profiler does between them, some microseconds each, stays in: this is an upper
    bound. Raises CorruptWeights and what a step's result may be.
    """
    span = load_span(plan, Span(0, plan.blocks), dtype=dtype, device=device)
    own = span.new_cache()

    def run(_: Cache | None, crossing: Crossing) -> Returned:
        with record_function(STEP):
            (out,) = span.run_together([(crossing, own)])
        if isinstance(out, ShardlineError):
            raise out
        assert isinstance(out, Returned)
        return out

    tokens = torch.ones(1, PROBE_TOKENS, dtype=torch.long, device=device)
    cache = DynamicCache(config=plan.config)
    with quiet(), torch.no_grad():
        ends: Any = load_ends(plan, run, dtype=dtype, device=device)
        ends(input_ids=tokens, past_key_values=cache)
        for _ in range(WARM_STEPS):
            ends(input_ids=tokens[:, :1], past_key_values=cache)
        profiled: Any = profile(use_kineto=False)
        with watched(_recorded), profiled:
            for _ in range(PROFILED_STEPS):
                ends(input_ids=tokens[:, :1], past_key_values=cache)
    events = profiled.function_events
    outside_us = (event.self_cpu_time_total for event in events if event.name == STEP)
    return min(outside_us) / 1e3 / plan.blocks


def _recorded(kernel: Callable[..., Any], given: tuple[Any, ...]) -> Any:  # noqa: ANN401  (of C)
    """What it gives; the profiler sees it as it sees an operator."""
    if isinstance(kernel, FunctionType):  # Python that calls operators, which it sees anyway
        return kernel(*given)
    with record_function(KERNEL):
        return kernel(*given)
