"""How far plans are from the best: every method, network family and size, by gap and time.

The gap is to the best lower bound that any method found for the case. The sizes are those of the
goals: at most 1% where `exact` runs, at most 5% at 512 nodes in under 5 s.

`python -m benchmarks.plan [--nodes 6 32 128 512] [--blocks 32 80 126] [--objective …]`
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from benchmarks.reporting import save
from shardline.core.errors import BadInput
from shardline.partition import FAMILIES, METHODS, compare, make

OBJECTIVES = ("throughput", "latency")
Row = dict[str, Any]


def case(
    family: str, nodes: int, blocks: int, objective: str, options: argparse.Namespace
) -> list[Row]:
    """All methods on one problem, each with its gap to the best bound of all."""
    rows: list[Row] = []
    size = f"{family} {nodes}x{blocks} {objective}"
    found = compare(
        make(family, nodes, blocks, options.seed), options.methods, objective=objective,
        seed=options.seed, budget_s=options.budget_s,
    )  # fmt: skip
    for method, one in found.items():
        if isinstance(one, BadInput):
            print(f"{size} {method}: {one}")
            continue
        rows.append({
            "family": family, "nodes": nodes, "blocks": blocks,
            "objective": objective, "method": method, "value_ms": one.value_ms,
            "bound_ms": one.lower_bound_ms, "seconds": round(one.seconds, 3),
            "stages": len(one.assignment), "gap": one.gap,
        })  # fmt: skip
        said = f"{one.value_ms:.2f} ms, gap {one.gap:.1%}, {one.seconds:.2f} s"
        print(f"{size} {method}: {said}", flush=True)
    return rows


def summary(rows: list[Row]) -> list[tuple[str, str, str]]:
    """A line for each size, objective and method: the median and the worst of all families."""
    lines: list[tuple[str, str, str]] = []
    keys = ("nodes", "blocks", "objective", "method")
    for size in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        those = [row for row in rows if tuple(row[key] for key in keys) == size]
        worst = max(those, key=lambda row: row["gap"])
        median = statistics.median(row["gap"] for row in those)
        seconds = max(row["seconds"] for row in those)
        goal = {6: "at most 1%", 512: "at most 5% in 5 s"}.get(size[0], "")
        what = f"{size[0]} nodes, {size[1]} blocks, {size[2]}, `{size[3]}`"
        gaps = f"gap {median:.1%} median, {worst['gap']:.1%} worst ({worst['family']})"
        aimed = goal if size[3] in {"auto", "exact"} else ""
        lines.append((what, f"{gaps}; at most {seconds:.1f} s", aimed))
    return lines


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[6, 32, 128, 512])
    parser.add_argument("--blocks", type=int, nargs="+", default=[32, 80, 126])
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES))
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    methods = [method for method in METHODS if method != "search"]  # what `auto` is from 9 nodes on
    parser.add_argument("--methods", nargs="+", default=methods)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget-s", type=float, default=4.8)
    parser.add_argument("--no-report", action="store_true")
    options = parser.parse_args()
    rows: list[Row] = []
    for nodes in options.nodes:
        for blocks in options.blocks:
            for objective in options.objectives:
                for family in options.families:
                    rows += case(family, nodes, blocks, objective, options)
    lines = summary(rows)
    if options.no_report:
        print("\n".join(" | ".join(line) for line in lines))
        return
    save("plan", "python -m benchmarks.plan", lines, {"rows": rows})


if __name__ == "__main__":
    main()
