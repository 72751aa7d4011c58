"""What replicas add: the best chain alone beside spans that overlap, on six kinds of networks.

Both are judged by the problem's own numbers. Searches end by counts, so a seed gives the same
figures on any machine; seconds are of this processor. The bound is of all plans with replicas.

`python -m benchmarks.replicas [--sizes 6x32 32x32] [--seed 0]`: two minutes of one core
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from benchmarks.reporting import save
from shardline.partition import FAMILIES, make, plan, plan_shared

SIZES = ("6x32", "32x32")
Row = dict[str, Any]


def case(family: str, nodes: int, blocks: int, seed: int) -> Row:
    """One network: tokens a second of the chain that `auto` finds, and with replicas."""
    problem = make(family, nodes, blocks, seed)
    alone_s = time.process_time()
    alone = plan(problem, seed=seed, budget_s=None)
    shared_s = time.process_time()
    shared = plan_shared(problem, seed=seed, budget_s=None)
    ended_s = time.process_time()
    row: Row = {
        "family": family, "nodes": nodes, "blocks": blocks,
        "chain_tokens_per_s": round(1e3 / alone.bottleneck_ms, 2),
        "tokens_per_s": round(shared.tokens_per_s, 2),
        "bound_tokens_per_s": round(1e3 / shared.lower_bound_ms, 2),
        "times": round(shared.tokens_per_s * alone.bottleneck_ms / 1e3, 3),
        "gap": round(shared.gap, 4),
        "used": [len(alone.assignment), len(shared.assignment)],
        "cpu_s": [round(shared_s - alone_s, 2), round(ended_s - shared_s, 2)],
    }  # fmt: skip
    print(row, flush=True)
    return row


def summary(rows: list[Row]) -> list[tuple[str, str, str]]:
    """A line for each network, and one for each size."""
    lines: list[tuple[str, str, str]] = []
    for size in dict.fromkeys((row["nodes"], row["blocks"]) for row in rows):
        those = [row for row in rows if (row["nodes"], row["blocks"]) == size]
        what = f"{size[0]} nodes, {size[1]} blocks"
        for row in those:
            chain, both = row["chain_tokens_per_s"], row["tokens_per_s"]
            said = f"{chain:.1f} tokens/s alone, {both:.1f} with replicas"
            more = f"{row['times']:.2f} x; gap {row['gap']:.1%}; {row['cpu_s'][1]:.1f} s of CPU"
            lines.append((f"{what}, {row['family']}", f"{said}: {more}", ""))
        times = [row["times"] for row in those]
        gap = statistics.median(row["gap"] for row in those)
        said = f"{statistics.median(times):.2f} x median, {min(times):.2f} to {max(times):.2f} x"
        lines.append((f"{what}, all", f"{said}; gap {gap:.1%} median", ""))
    return lines


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), metavar="NODESxBLOCKS")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows: list[Row] = []
    for size in options.sizes:
        nodes, _, blocks = size.partition("x")
        rows += [case(family, int(nodes), int(blocks), options.seed) for family in FAMILIES]
    save("replicas", summary(rows), {"rows": rows})


if __name__ == "__main__":
    main()
