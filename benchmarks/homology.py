"""Is homology worth it? Networks that drift and split, and five ways to keep their plan good.

Over time, for each objective: keep the first plan (made anew only when a node of it has left), plan
always anew by `auto`, plan anew only when the fingerprint says that the network changed, or lay the
scheme that is nearest: by the whole fingerprint, by its homology alone, by plain quantiles of the
distances alone, or by size alone (the mean of all schemes of the likest size). A blank scheme, of
usual roles and no promise, shows what laying and repair do without any knowledge.

A plan's figure is its value over the best lower bound known for that moment.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from dataclasses import replace
from math import log
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from benchmarks.reporting import save
from shardline.partition import (
    Problem,
    Share,
    evaluate,
    lay,
    make,
    nearest_schemes,
    plan,
    shipped,
    state_of,
    weight_of,
)
from shardline.topology import LinkMatrix, Snapshot, Weights, drift, take

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shardline.partition import Placed, Plan, Scheme

    Moment = tuple[float, float]
    """What a strategy's plan is worth (a value in ms, or its ratio to the bound), CPU seconds."""

MOMENTS = 6
OBJECTIVES = ("throughput", "latency")
APART = 20.0
"""How many times farther, and thinner, links between the parts of a split are."""
LEAVING = 0.08
"""Of the nodes at each moment, where nodes come and go."""
PICKS = {
    "fingerprint": Weights(),
    "homology alone": Weights(pairs=0, scale=0),
    "plain quantiles alone": Weights(parts=0, rings=0, scale=0),
}


def drifting(first: str, last: str, nodes: int, blocks: int, seed: int) -> Iterator[Problem]:
    """From one family to another, link by link; speeds wander by a tenth a moment."""
    a, b = (make(family, nodes, blocks, seed) for family in (first, last))
    luck = np.random.default_rng(seed)
    speeds = np.array([node.speed for node in a.nodes])
    for moment in range(MOMENTS):
        part = moment / (MOMENTS - 1)
        machines = tuple(
            replace(node, speed=float(speed)) for node, speed in zip(a.nodes, speeds, strict=True)
        )
        yield replace(
            a,
            nodes=machines,
            delay_s=a.delay_s ** (1 - part) * b.delay_s**part,
            bytes_per_s=a.bytes_per_s ** (1 - part) * b.bytes_per_s**part,
        )
        speeds *= luck.lognormal(0.0, 0.1, nodes)


def splitting(family: str, nodes: int, blocks: int, seed: int) -> Iterator[Problem]:
    """Whole, then in two parts for three moments, then whole again."""
    whole = make(family, nodes, blocks, seed)
    part = np.random.default_rng(seed).random(nodes + 1) < 0.4  # noqa: PLR2004
    across = part[:, None] != part
    for moment in range(MOMENTS):
        far = APART if 2 <= moment <= 4 else 1.0  # noqa: PLR2004
        yield replace(
            whole,
            delay_s=np.where(across, whole.delay_s * far, whole.delay_s),
            bytes_per_s=np.where(across, whole.bytes_per_s / far, whole.bytes_per_s),
        )


def churning(family: str, nodes: int, blocks: int, seed: int) -> Iterator[Problem]:
    """Some nodes leave at each moment, and as many come."""
    kept = round(nodes * LEAVING)
    everyone = make(family, nodes + kept * MOMENTS, blocks, seed)
    names = [node.name for node in everyone.nodes]
    for moment in range(MOMENTS):
        here = set(names[moment * kept : moment * kept + nodes])
        yield everyone.without(set(names) - here)


JOURNEYS: dict[str, Callable[[int, int, int], Iterator[Problem]]] = {
    "lan drifts to homes": lambda n, b, s: drifting("lan", "homes", n, b, s),
    "mixed drifts to a ring": lambda n, b, s: drifting("mixed", "ring", n, b, s),
    "a star drifts to two clusters": lambda n, b, s: drifting("star", "two-clusters", n, b, s),
    "a lan splits": lambda n, b, s: splitting("lan", n, b, s),
    "homes split": lambda n, b, s: splitting("homes", n, b, s),
    "homes come and go": lambda n, b, s: churning("homes", n, b, s),
}


def snapshot(problem: Problem) -> Snapshot:
    """What the topology room would see if all links were measured well."""
    size = len(problem.nodes)
    rtt_ms = 1e3 * (problem.delay_s + problem.delay_s.T)[:size, :size]
    np.fill_diagonal(rtt_ms, 0.0)
    rate = problem.bytes_per_s[:size, :size].copy()
    np.fill_diagonal(rate, np.inf)
    names = tuple(node.name for node in problem.nodes)
    sure, all_of = np.ones((size, size)), np.ones((size, size), dtype=np.bool_)
    nothing = np.zeros((size, size))
    return take(LinkMatrix(names, rtt_ms, sure, all_of, nothing, rate, sure, all_of, 0.0, 0.0))


def blank(scheme: Scheme) -> Scheme:
    """A scheme that knows nothing."""
    usual = msgspec.structs.replace(scheme.throughput, ratio=1.0, roles=((0.5,) * 7,))
    return msgspec.structs.replace(scheme, throughput=usual, latency=usual)


def of_size(problem: Problem) -> list[Scheme]:
    """All schemes of the likest size."""

    def unlike(scheme: Scheme) -> float:
        nodes = log(scheme.state.nodes / (len(problem.nodes) + 1))
        return abs(nodes) + abs(log(scheme.blocks / len(problem.blocks)))

    least = min(map(unlike, shipped().schemes))
    return [scheme for scheme in shipped().schemes if unlike(scheme) == least]


def picked(problem: Problem, objective: str) -> dict[str, Moment]:
    """What each way to choose a scheme gives."""
    weight = weight_of(objective)
    found: dict[str, Moment] = {}

    def value_ms(scheme: Scheme) -> float:
        chain = lay(problem, scheme, objective=objective)
        return 1e3 * evaluate(problem, chain).value_s(weight) if chain else float("inf")

    for name, weights in PICKS.items():
        began_s = time.process_time()
        [scheme] = nearest_schemes(
            shipped(), state_of(problem), len(problem.blocks), weights=weights
        )
        found[name] = (value_ms(scheme), time.process_time() - began_s)
    began_s = time.process_time()
    peers = of_size(problem)
    values = [value_ms(scheme) for scheme in peers]
    found["size alone"] = (
        statistics.fmean(values),
        (time.process_time() - began_s) / len(peers),
    )
    began_s = time.process_time()
    found["blank scheme"] = (value_ms(blank(peers[0])), time.process_time() - began_s)
    return found


class Kept:
    """A plan that stays until a node of it has left or, if it watches, the network has changed."""

    def __init__(self, *, watches: bool) -> None:
        self.watches = watches
        self.parts: tuple[Placed, ...] = ()
        self.agreed: Snapshot | None = None
        self.plans = 0

    def moment(self, problem: Problem, weight: float, fresh: Plan, plan_s: float) -> Moment:
        """What it does now; `fresh` is what a search finds now, in so much time."""
        began_s = time.process_time()
        now = snapshot(problem) if self.watches else None
        changed = bool(now and self.agreed and drift(self.agreed, now).replan)
        spent_s = time.process_time() - began_s
        place = {node.name: index for index, node in enumerate(problem.nodes)}
        if not self.parts or changed or any(part.node not in place for part in self.parts):
            self.parts, self.agreed, self.plans = fresh.assignment, now, self.plans + 1
            spent_s += plan_s
        chain = [Share(place[part.node], part.start, part.stop) for part in self.parts]
        return 1e3 * evaluate(problem, chain).value_s(weight), spent_s


def journey(
    problems: Iterator[Problem], objective: str, budget_s: float
) -> tuple[list[dict[str, Moment]], dict[str, int]]:
    """Each moment's ratios to the best bound and CPU seconds, by strategy; and the plans made."""
    kept = {"keep the first plan": Kept(watches=False), "auto on drift": Kept(watches=True)}
    moments: list[dict[str, Moment]] = []
    for problem in problems:
        began_s = time.process_time()
        fresh = plan(problem, objective=objective, budget_s=budget_s)
        plan_s = time.process_time() - began_s
        seen = {"auto always": (fresh.value_ms, plan_s)}
        for name, one in kept.items():
            seen[name] = one.moment(problem, weight_of(objective), fresh, plan_s)
        seen |= picked(problem, objective)
        bound_ms = fresh.lower_bound_ms
        moments.append({name: (ms / bound_ms, spent_s) for name, (ms, spent_s) in seen.items()})
    return moments, {name: one.plans for name, one in kept.items()}


def summary(found: dict[str, list[Moment]]) -> list[tuple[str, str]]:
    """By strategy, over all moments."""
    lines: list[tuple[str, str]] = []
    for name, moments in found.items():
        ratios = np.array([ratio for ratio, _ in moments])
        spent_ms = 1e3 * statistics.fmean(spent_s for _, spent_s in moments)
        middle, late = np.quantile(ratios, [0.5, 0.9])
        gaps = f"{middle - 1:.1%} median, {late - 1:.1%} at 90%, {ratios.max() - 1:.0%} worst"
        lines.append((name, f"{gaps}; {spent_ms:.0f} ms a moment"))
    return lines


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["24x40", "64x80"], help="NODESxBLOCKS")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--budget-s", type=float, default=1.0)
    parser.add_argument("--no-report", action="store_true")
    options = parser.parse_args()
    shipped()  # read once, as a node does
    rows: list[tuple[str, str, str]] = []
    data: dict[str, Any] = {}
    for objective in OBJECTIVES:
        everything: dict[str, list[Moment]] = {}
        for name, make_journey in JOURNEYS.items():
            for size, seed in itertools.product(options.sizes, options.seeds):
                nodes, blocks = map(int, size.split("x"))
                title = f"{name}, {size}, seed {seed}, {objective}"
                moments, plans = journey(
                    make_journey(nodes, blocks, seed), objective, options.budget_s
                )
                data[title] = {"moments": moments, "plans": plans}
                for moment in moments:
                    for way, seen in moment.items():
                        everything.setdefault(way, []).append(seen)
                means = {
                    way: statistics.fmean(moment[way][0] for moment in moments) - 1
                    for way in moments[0]
                }
                said = ", ".join(f"{way} {mean:.1%}" for way, mean in means.items())
                print(f"{title}: {said}; plans {plans}", flush=True)
        rows += [
            (f"{objective}, {way}: above the best bound", line, "")
            for way, line in summary(everything)
        ]
    if options.no_report:
        print("\n".join(f"{what} | {seen}" for what, seen, _ in rows))
        return
    save("homology", rows, data)


if __name__ == "__main__":
    main()
