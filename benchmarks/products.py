"""What our products cost beside torch's: eleven blocks' worth of a 1.1B Llama's layers, by rows.

Each way holds all layers as it keeps them, multiplies by all of them in turn, and so reads them
from memory, as a decoding step does. Ways take turns, and each keeps its quickest turn, as what
others do only ever adds. In 8 bits quantising the rows is part of it.

`python -m benchmarks.products [--turns 15] [--rows 1 4 8]`
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any, Final

import torch

from benchmarks.reporting import save
from shardline.kernels import (
    Panels,
    Panels8,
    attention_code,
    code,
    gating,
    normalising,
    rotating,
)
from shardline.kernels.arithmetic import BF16, INT8
from shardline.kernels.compiling import compiled, engine_of
from shardline.model import int8, packed
from shardline.model.int8 import quantise_rows

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCKS: Final = 11
HIDDEN, BETWEEN, SHARED = 2048, 5632, 256
SHAPES: Final = (
    (HIDDEN, HIDDEN),
    (SHARED, HIDDEN),
    (SHARED, HIDDEN),
    (HIDDEN, HIDDEN),
    (BETWEEN, HIDDEN),
    (BETWEEN, HIDDEN),
    (HIDDEN, BETWEEN),
)
"""Outputs and inputs of one block's layers."""
ROWS: Final = (1, 4, 8, 12, 16, 128)
THREADS: Final = (1, 2)
PAIRS: Final = {"bfloat16": ("oneDNN", "ours"), "int8": ("FBGEMM", "ours, int8")}
_packed: Any = packed
_int8: Any = int8

Layer = tuple[int, "Callable[[torch.Tensor], torch.Tensor]"]
"""Its inputs, and the product."""


def made() -> dict[str, list[Layer]]:
    """Every layer, once for each way."""
    ways: dict[str, list[Layer]] = {way: [] for pair in PAIRS.values() for way in pair}
    for outputs, inputs in SHAPES * BLOCKS:
        weight = torch.randn(outputs, inputs).bfloat16()
        codes, scale = quantise_rows(weight, torch.float32)
        theirs = _int8._ByTorch(_int8._packed(codes, scale))  # noqa: SLF001
        ways["oneDNN"].append((inputs, _packed._Blocked(weight, None)))  # noqa: SLF001
        ways["ours"].append((inputs, Panels(weight)))
        ways["FBGEMM"].append((inputs, theirs))
        ways["ours, int8"].append((inputs, Panels8(codes, scale)))
    return ways


def quickest_ms(ways: dict[str, list[Layer]], rows: int, turns: int) -> dict[str, float]:
    """All layers of each way, in turns."""
    inputs = {width: torch.randn(rows, width).bfloat16() for width in (HIDDEN, BETWEEN)}
    found = dict.fromkeys(ways, float("inf"))
    for _ in range(turns):
        for way, layers in ways.items():
            started_s = time.perf_counter()
            for width, product in layers:
                product(inputs[width])
            found[way] = min(found[way], 1e3 * (time.perf_counter() - started_s))
    return found


def compile_s() -> dict[str, tuple[float, int]]:
    """How long each text of ours takes to be compiled, anew, and its characters."""
    texts = {
        "products, bfloat16": code.source(BF16),
        "products, int8": code.source(INT8),
        "attention": attention_code.source(),
        "norms": normalising.source(),
        "gates": gating.source(),
        "rotations": rotating.source(),
    }
    found: dict[str, tuple[float, int]] = {}
    for name, text in texts.items():
        started_s = time.perf_counter()
        engine_of(text)
        found[name] = time.perf_counter() - started_s, len(text)
    return found


@torch.no_grad()
def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    args = parser.parse_args()
    if compiled(BF16) is None or compiled(INT8) is None:
        parser.error("this processor is none that our products are for")
    compiling = compile_s()
    torch.set_num_threads(1)
    ways = made()
    read_bytes = BLOCKS * sum(outputs * inputs for outputs, inputs in SHAPES)
    times: dict[str, dict[str, float]] = {}
    rows: list[tuple[str, str, str]] = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        for count in args.rows:
            found = times[f"{threads} threads, {count} rows"] = quickest_ms(ways, count, args.turns)
            for dtype, (theirs, ours) in PAIRS.items():
                gb_s = read_bytes * (2 if dtype == "bfloat16" else 1) / found[ours] / 1e6
                ratio = found[theirs] / found[ours]
                said = f"{theirs} {found[theirs]:.1f} ms, ours {found[ours]:.1f}, {ratio:.2f} x"
                what = f"{threads} thread{'s' * (threads > 1)}, {count} rows, {dtype}"
                rows.append((what, f"{said}, {gb_s:.1f} GB/s", ""))
    for name, (took_s, size) in compiling.items():
        rows.append((f"compiling {name}", f"{took_s:.2f} s, {size / 1e3:.0f} kB of text", ""))
    data = {"turns": args.turns, "times_ms": times, "compiling_s": compiling}
    save("products", rows, data)


if __name__ == "__main__":
    main()
