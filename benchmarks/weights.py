"""What quantised weights cost and lose: a stack of Llama-1.1B's blocks on one thread.

A step takes the first tokens of M sessions through four blocks, as a node does (each attends to
itself alone, so that weights are what is measured). Times are of the processor, not of the clock:
others may share it. Kinds take turns, and each keeps its quickest step, as what others do only ever
adds. Errors are the norm of what is lost over the norm of what float32 gives. Memory is what the
blocks hold; on disk, int8 keeps its columns in 16 bits beside.

`python -m benchmarks.weights [--seconds 3]`
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import MixtralConfig

from benchmarks.reporting import save
from benchmarks.shapes import tinyllama, write_model
from shardline.codec import Marker
from shardline.core.spans import Span
from shardline.model import (
    KINDS,
    Call,
    Crossing,
    LoadedSpan,
    Returned,
    Weights,
    kind_named,
    load_span,
    trace,
)
from shardline.model.int8 import MixedInt8
from shardline.model.weights import EXACT

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from shardline.model import ChainPlan

BLOCKS = 4
SESSIONS = (1, 4, 8, 16)
HIDDEN = 2048
HEAD = 64
CPU = torch.device("cpu")
MIXTRAL_8X22B: dict[str, Any] = {
    "hidden_size": 6144,
    "intermediate_size": 16384,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_hidden_layers": 56,
}
"""The same with an eighth of the widths is small enough to be real."""
Row = tuple[str, str, str]


def made(config: PreTrainedConfig, folder: Path) -> ChainPlan:
    """A checkpoint of random weights in bfloat16."""
    write_model(config, folder, torch.bfloat16)
    return trace(folder)


def turns(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of a text's first position."""
    return torch.ones(1, 1, HEAD, dtype=dtype), torch.zeros(1, 1, HEAD, dtype=dtype)


def step(span: LoadedSpan, x: torch.Tensor) -> torch.Tensor:
    """One token of each session through all blocks."""
    for block in span.blocks.values():
        found: Any = block(x, position_embeddings=turns(x.dtype), attention_mask=None)
        x = found
    return x


def loaded(plan: ChainPlan, name: str, folder: Path) -> tuple[LoadedSpan, dict[str, float]]:
    """The blocks, and how long it takes to load them anew and once they are kept."""
    span = Span(0, plan.blocks)
    if name == "bf16":
        return load_span(plan, span, dtype=torch.bfloat16, device=CPU), {}
    weights = Weights.plan(plan, torch.bfloat16, kind_named(name), folder / name)
    times: list[float] = []
    for _ in ("anew", "kept"):
        started_s = time.thread_time()
        held = load_span(plan, span, dtype=torch.bfloat16, device=CPU, weights=weights)
        times.append(time.thread_time() - started_s)
    disk_bytes = sum(file.stat().st_size for file in (folder / name).iterdir())
    return held, {"anew_s": times[0], "kept_s": times[1], "disk_bytes": disk_bytes}


def quickest_ms(spans: dict[str, LoadedSpan], sessions: int, seconds: float) -> dict[str, float]:
    """The kinds' steps in turns."""
    inputs = {"position_embeddings": turns(torch.bfloat16), "past_key_values": Marker("cache")}
    call = Call((Marker("carried"),), inputs)
    tokens = [torch.randn(1, 1, HIDDEN).bfloat16() for _ in range(sessions)]
    steps = [Crossing(0, (x,), (call,), BLOCKS * (0,)) for x in tokens]
    caches = {name: [span.new_cache(1) for _ in steps] for name, span in spans.items()}
    found = dict.fromkeys(spans, float("inf"))
    until_s = time.thread_time() + seconds
    while time.thread_time() < until_s:
        for name, span in spans.items():
            started_s = time.thread_time()
            results = span.run_together(list(zip(steps, caches[name], strict=True)))
            found[name] = min(found[name], 1e3 * (time.thread_time() - started_s))
            assert all(isinstance(result, Returned) for result in results), results
            for cache in caches[name]:
                span.truncate(cache, 0)
    return found


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Share that is lost."""
    lost = found.float() - exact
    return float((lost.square().sum() / exact.square().sum()).sqrt())


def decomposition() -> dict[str, float]:
    """One layer of 4,096 inputs, six columns of which are 60 times as large as the others."""
    weight = torch.randn(1024, 4096, generator=torch.Generator().manual_seed(1))
    x = torch.randn(64, 4096, generator=torch.Generator().manual_seed(2))
    x[:, ::683] *= 60
    exact = x @ weight.t()
    tensors = MixedInt8().quantise(weight)
    without = {name: tensor for name, tensor in tensors.items() if name != EXACT}
    weight_only = kind_named("int8-weight")
    return {
        "8 bits alone": error(MixedInt8(1e9).ready(tensors)(x), exact),
        "int8, columns in 16 bits": error(MixedInt8().ready(tensors)(x), exact),
        "int8, nothing on disk": error(MixedInt8().ready(without)(x), exact),
        "int8-weight": error(weight_only.ready(weight_only.quantise(weight))(x), exact),
        "bf16": error(torch.nn.functional.linear(x.bfloat16(), weight.bfloat16()), exact),
    }


def mixtral(folder: Path) -> dict[str, float]:
    """Memory of int8 over memory of bf16: all of 8x22B on paper, and a small layer in truth."""
    typeless: Any = MixtralConfig
    whole = typeless(**MIXTRAL_8X22B, architectures=["MixtralForCausalLM"])
    whole.save_pretrained(folder / "whole")
    plan = trace(folder / "whole")
    sixteen = sum(plan.block_bytes(torch.bfloat16))
    planned = Weights.plan(plan, torch.bfloat16, kind_named("int8"), None)
    widths = {"hidden_size": 768, "intermediate_size": 2048, "num_attention_heads": 6}
    fewer = {"num_key_value_heads": 1, "num_hidden_layers": 2, "vocab_size": 64}
    small = made(typeless(**(MIXTRAL_8X22B | widths | fewer)), folder / "small")
    weights = Weights.plan(small, torch.bfloat16, kind_named("int8"), folder / "kept")
    span = load_span(
        small, Span(0, small.blocks), dtype=torch.bfloat16, device=CPU, weights=weights
    )
    return {
        "8x22B, meta device": sum(planned.block_bytes) / sixteen,
        "two layers of an eighth": span.memory_bytes / sum(small.block_bytes(torch.bfloat16)),
    }


@torch.no_grad()
def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        plan = made(tinyllama(blocks=BLOCKS, vocabulary=64), folder / "llama")
        spans: dict[str, LoadedSpan] = {}
        loads: dict[str, dict[str, float]] = {}
        for name in ("bf16", *KINDS):
            spans[name], loads[name] = loaded(plan, name, folder)
        x = torch.randn(16, 1, HIDDEN).bfloat16()
        exact = load_span(plan, Span(0, BLOCKS), dtype=torch.float32, device=CPU)
        truth = step(exact, x.float())
        errors = {name: error(step(span, x), truth) for name, span in spans.items()}
        del exact
        steps = {m: quickest_ms(spans, m, seconds) for m in SESSIONS}
        outliers, shares = decomposition(), mixtral(folder)
    memory = {name: span.memory_bytes for name, span in spans.items()}
    rows: list[Row] = []
    for m, found in steps.items():
        for name, ms in found.items():
            goal = "2 x bf16" if (m, name) == (1, "int8") else ""
            ratio = found["bf16"] / ms
            rows.append((f"{m} sessions, {name}", f"{ms:.1f} ms a step, {ratio:.2f} x bf16", goal))
    for name, held_bytes in memory.items():
        held = f"{held_bytes / 2**20:,.0f} MiB, error {errors[name]:.3%}"
        rows.append((f"{BLOCKS} blocks, {name}", held, ""))
    for name, times in loads.items():
        if times:
            kept = f"{times['anew_s']:.1f} s, then {times['kept_s']:.1f} s"
            rows.append((f"load, {name}", f"{kept}; {times['disk_bytes'] / 2**20:,.0f} MiB", ""))
    rows += [(f"outliers x60, {what}", f"error {lost:.2%}", "") for what, lost in outliers.items()]
    rows += [(f"Mixtral, {what}", f"{share - 1:+.1%}", "-30%") for what, share in shares.items()]
    data = {"seconds": seconds, "steps_ms": steps, "memory_bytes": memory, "errors": errors}
    data |= {"loads": loads, "outliers": outliers, "mixtral": shares}
    save("weights", rows, data)


if __name__ == "__main__":
    main()
