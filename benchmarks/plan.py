"""How far plans are from the best: every method, network family and size, by gap and time.

The gap is to the best lower bound that any method found for the case. The sizes are those of the
goals: at most 1% where `exact` runs, at most 5% at 512 nodes in under 5 s.

`python -m benchmarks.plan [--nodes 6 32 128 512] [--blocks 32 80 126] [--objective …]`
`python -m benchmarks.plan --graphs`: the same of graphs of ops, three kinds on three networks.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from benchmarks.reporting import save
from shardline.core.errors import BadInput
from shardline.partition import (
    FAMILIES,
    GRAPH_METHODS,
    GRAPHS,
    METHODS,
    compare,
    make,
    make_graph,
    plan_graph,
)

OBJECTIVES = ("throughput", "latency")
GRAPH_SIZES = ((12, 3), (40, 4), (80, 8))
"""Ops and nodes; the first are those where `exact` is certain whatever the links."""
GRAPH_FAMILIES = ("lan", "two-clusters", "homes")
GRAPH_BUDGET_S = 4.0
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


def graph_case(
    kind: str, size: tuple[int, int], family: str, objective: str, seed: int
) -> list[Row]:
    """All methods on one graph, each with its gap to the best bound of all."""
    rows: list[Row] = []
    graph = make_graph(kind, *size, seed, family)
    for method in GRAPH_METHODS:
        if method == "exact" and size != GRAPH_SIZES[0]:
            continue
        one = plan_graph(graph, method, objective=objective, seed=seed, budget_s=GRAPH_BUDGET_S)
        rows.append({
            "family": f"{kind}, {family}", "nodes": size[1], "blocks": size[0],
            "objective": objective, "method": method, "value_ms": round(one.value_ms, 4),
            "bound_ms": round(one.lower_bound_ms, 4), "seconds": round(one.seconds, 2),
        })  # fmt: skip
    most_ms = max(row["bound_ms"] for row in rows)
    return [
        row | {"bound_ms": most_ms, "gap": round(row["value_ms"] / most_ms - 1, 4)} for row in rows
    ]


def graphs(seed: int) -> list[Row]:
    """All graphs."""
    rows: list[Row] = []
    for size in GRAPH_SIZES:
        for objective in OBJECTIVES:
            for kind in GRAPHS:
                for family in GRAPH_FAMILIES:
                    rows += graph_case(kind, size, family, objective, seed)
                print(f"{kind} {size} {objective}", flush=True)
    return rows


def summary(rows: list[Row], unit: str = "blocks") -> list[tuple[str, str, str]]:
    """A line for each size, objective and method: the median and the worst of all families."""
    lines: list[tuple[str, str, str]] = []
    keys = ("nodes", "blocks", "objective", "method")
    for size in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        those = [row for row in rows if tuple(row[key] for key in keys) == size]
        worst = max(those, key=lambda row: row["gap"])
        median = statistics.median(row["gap"] for row in those)
        seconds = max(row["seconds"] for row in those)
        goal = {6: "at most 1%", 512: "at most 5% in 5 s"}.get(size[0], "")
        what = f"{size[0]} nodes, {size[1]} {unit}, {size[2]}, `{size[3]}`"
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
    parser.add_argument("--graphs", action="store_true")
    parser.add_argument("--no-report", action="store_true")
    options = parser.parse_args()
    rows = graphs(options.seed) if options.graphs else plans(options)
    lines = summary(rows, "ops" if options.graphs else "blocks")
    if options.no_report:
        print("\n".join(" | ".join(line) for line in lines))
    else:
        save("plan graphs" if options.graphs else "plan", lines, {"rows": rows})


def plans(options: argparse.Namespace) -> list[Row]:
    """Every size, aim and family that is asked for."""
    rows: list[Row] = []
    for nodes in options.nodes:
        for blocks in options.blocks:
            for objective in options.objectives:
                for family in options.families:
                    rows += case(family, nodes, blocks, objective, options)
    return rows


if __name__ == "__main__":
    main()
