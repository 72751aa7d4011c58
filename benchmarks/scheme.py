"""How long a plan after a precomputed scheme takes, and how far from the best known it is.

Every size of the goals, network family and objective, on seeds that the library does not hold. CPU
time is this process's own, wall time what the caller waits: on a shared core the first is the
surer. The best known is the better of this plan and what `auto` finds in its time.

`python -m benchmarks.scheme [--nodes 6 32 128 512] [--blocks 32 80 126] [--seeds 1 2]`
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from benchmarks.plan import OBJECTIVES
from benchmarks.reporting import save
from shardline.core.errors import BadInput
from shardline.partition import FAMILIES, Problem, make, plan

GOAL_MS = 50
GOAL_GAP = 0.1
Row = dict[str, Any]


def timed(problem: Problem, objective: str, repeats: int) -> tuple[float, float, float]:
    """The plan's value, and CPU and wall time of the quickest of some runs, all in ms."""
    cpu_ms: list[float] = []
    wall_ms: list[float] = []
    value_ms = 0.0
    for _ in range(repeats):
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        value_ms = plan(problem, "scheme", objective=objective).value_ms
        cpu_ms.append(1e3 * (time.process_time() - cpu_s))
        wall_ms.append(1e3 * (time.perf_counter() - wall_s))
    return value_ms, min(cpu_ms), min(wall_ms)


def case(
    family: str, size: tuple[int, int], objective: str, seed: int, options: argparse.Namespace
) -> Row:
    """One problem."""
    problem = make(family, *size, seed)
    value_ms, cpu_ms, wall_ms = timed(problem, objective, options.repeats)
    best_ms = value_ms
    try:
        best = plan(problem, "auto", objective=objective, seed=seed, budget_s=options.best_s)
        best_ms = min(value_ms, best.value_ms)
    except BadInput as error:  # its time was too short for any chain
        print(f"{family} {size}: {error}")
    return {
        "family": family, "nodes": size[0], "blocks": size[1], "objective": objective,
        "seed": seed, "value_ms": round(value_ms, 4), "best_ms": round(best_ms, 4),
        "above": round(value_ms / best_ms - 1, 4),
        "cpu_ms": round(cpu_ms, 1), "wall_ms": round(wall_ms, 1),
    }  # fmt: skip


def said(rows: list[Row]) -> str:
    """Median and worst of all rows."""
    parts: list[str] = []
    for name, key in (("CPU", "cpu_ms"), ("wall", "wall_ms")):
        times = [row[key] for row in rows]
        parts.append(f"{name} {statistics.median(times):.0f} ms, worst {max(times):.0f}")
    worst = max(rows, key=lambda row: row["above"])
    middle = statistics.median(row["above"] for row in rows)
    where = f" ({worst['family']})" if worst["above"] else ""
    return f"{'; '.join(parts)}; above best {middle:.1%}, worst {worst['above']:.1%}{where}"


def summary(rows: list[Row]) -> list[tuple[str, str, str]]:
    """A line for each size and objective, and one for all of an objective."""
    lines: list[tuple[str, str, str]] = []
    for objective in OBJECTIVES:
        goal = f"under {GOAL_MS} ms, at most {GOAL_GAP:.0%} above"
        those = [row for row in rows if row["objective"] == objective]
        for size in dict.fromkeys((row["nodes"], row["blocks"]) for row in those):
            here = [row for row in those if (row["nodes"], row["blocks"]) == size]
            lines.append((f"{size[0]} nodes, {size[1]} blocks, {objective}", said(here), goal))
        lines.append((f"all {len(those)}, {objective}", said(those), goal))
    return lines


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[6, 32, 128, 512])
    parser.add_argument("--blocks", type=int, nargs="+", default=[32, 80, 126])
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--best-s", type=float, default=1.5, help="what `auto` gets for each case")
    parser.add_argument("--no-report", action="store_true")
    options = parser.parse_args()
    rows: list[Row] = []
    for nodes in options.nodes:
        for blocks in options.blocks:
            for objective in OBJECTIVES:
                here = [
                    case(family, (nodes, blocks), objective, seed, options)
                    for family in options.families
                    for seed in options.seeds
                ]
                print(f"{nodes}x{blocks} {objective}: {said(here)}", flush=True)
                rows += here
    lines = summary(rows)
    if options.no_report:
        print("\n".join(" | ".join(line) for line in lines))
        return
    save("scheme", lines, {"rows": rows})


if __name__ == "__main__":
    main()
