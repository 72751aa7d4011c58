"""What 8-bit transfers cost and lose beside raw ones, on one thread: the codec alone, no link.

Time is the median of a write (tensor to header and bytes) and of a read, over eight tensors in
turn, so that they are not all in the processor's cache. The error is the norm of what is lost
over the norm of what was sent, of normal values, and of the same with one channel 300 times as
large (the massive activations of trained models), counted without that channel. A link pays for
8 bits if it is slower than the bandwidth at which bytes saved equal time spent.

`python -m benchmarks.codec [--rounds 60]`
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.reporting import save
from shardline.codec import BLOCK, WIRES, encoder, from_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HIDDEN = 4096
TENSORS = 8
BLOCKS = (64, 512, BLOCK)
GOALS_MS = {1: 0.1, 512: 4.0}
"""By tokens, for a write and for a read."""
Row = tuple[str, str, str]


def median_ms(work: Callable[[Any], object], inputs: Iterable[Any], rounds: int) -> float:
    """Of so many calls, after as many to warm up as there are tensors."""
    turns = itertools.cycle(inputs)
    for _ in range(TENSORS):
        work(next(turns))
    times: list[float] = []
    for _ in range(rounds):
        given = next(turns)
        started_s = time.perf_counter()
        work(given)
        times.append(time.perf_counter() - started_s)
    return 1e3 * statistics.median(times)


def cost(wire: str, tokens: int, rounds: int) -> dict[str, Any]:
    """Time and bytes of (1, tokens, 4096) in bfloat16."""
    tensors = [torch.randn(1, tokens, HIDDEN).bfloat16() for _ in range(TENSORS)]
    write = encoder(wire)
    written = [(header, bytearray(data)) for header, data in map(write, tensors)]
    return {
        "wire": wire,
        "tokens": tokens,
        "write_ms": median_ms(write, tensors, rounds),
        "read_ms": median_ms(lambda sent: from_bytes(*sent), written, rounds),
        "bytes": len(written[0][1]),
    }


def error(block: int, *, outlier: bool) -> float:
    """Share of the values that is lost, beside the outlying channel."""
    values = torch.randn(1, 512, HIDDEN, generator=torch.Generator().manual_seed(1)).bfloat16()
    if outlier:
        values[..., 1000] *= 300
    header, data = encoder("int8", block=block)(values)
    lost = (from_bytes(header, bytearray(data)) - values).float()
    lost[..., 1000] = 0.0
    values[..., 1000] = 0.0
    return float((lost.square().sum() / values.float().square().sum()).sqrt())


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    rows: list[Row] = []
    costs: list[dict[str, Any]] = []
    for tokens, goal_ms in GOALS_MS.items():
        raw, int8 = [cost(wire, tokens, rounds) for wire in WIRES]
        costs += [raw, int8]
        for one in (raw, int8):
            goal = f"{goal_ms} ms each" if one is int8 else "beside it"
            measured = f"{one['write_ms']:.3f} ms, {one['read_ms']:.3f} ms, {one['bytes']:,} bytes"
            rows.append((f"(1, {tokens}, {HIDDEN}), {one['wire']}: write, read", measured, goal))
        spent_ms = sum(int8[way] - raw[way] for way in ("write_ms", "read_ms"))
        pays_mbit_s = (raw["bytes"] - int8["bytes"]) * 8e-3 / spent_ms
        int8["pays_below_mbit_s"] = pays_mbit_s
        rows.append(
            (f"(1, {tokens}, {HIDDEN}): 8 bits pay below", f"{pays_mbit_s:,.0f} Mbit/s", "")
        )
    errors = {
        f"{kind}, blocks of {block}": error(block, outlier=bool(kind != "normal"))
        for kind in ("normal", "one channel x300")
        for block in BLOCKS
    }
    rows += [(f"error, {what}", f"{share:.2%}", "") for what, share in errors.items()]
    data = {"rounds": rounds, "costs": costs, "errors": errors}
    save("codec", rows, data)


if __name__ == "__main__":
    main()
