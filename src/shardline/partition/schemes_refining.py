"""A plan at once and better ones as they are found: what a swarm does when a node joins."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from shardline.core.errors import BadInput
from shardline.partition.solve import BUDGET_S, plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardline.partition.problem import Problem
    from shardline.partition.schemes import Library
    from shardline.partition.solve import Plan

__all__ = ["refine"]

ROUNDS = 3
"""Searches, each with twice the time of the one before."""
PROVEN = 1e-4


def refine(
    problem: Problem,
    *,
    objective: str | float = "throughput",
    seed: int = 0,
    budget_s: float = BUDGET_S,
    library: Library | None = None,
) -> Iterator[Plan]:
    """The nearest scheme's plan, then plans by `auto`, each better or surer than the one before.

    The first comes within milliseconds; the others take `budget_s` in all, and are sought only as
    they are asked for, so run this where it may take time. Without a library the shipped one
    serves. Raises BadInput if no plan is possible.
    """
    best: Plan | None = None
    for turn in range(ROUNDS + 1):
        part = 2 ** (turn - 1) / (2**ROUNDS - 1)
        method, budget_now_s = ("auto", part * budget_s) if turn else ("scheme", None)
        try:
            found = plan(
                problem, method, objective=objective, seed=seed, budget_s=budget_now_s,
                library=library,
            )  # fmt: skip
        except BadInput:
            if best is None and turn == ROUNDS:
                raise
            continue  # no scheme fits, or the time was short: others follow
        before, best = best, found if best is None else _better(best, found)
        if best is not before:
            yield best
        if best.gap <= PROVEN:
            return


def _better(best: Plan, found: Plan) -> Plan:
    """The better of the two under the higher bound of both; the first, if nothing is gained."""
    bound_ms = max(best.lower_bound_ms, found.lower_bound_ms)
    kept = found if found.value_ms < best.value_ms else best
    if kept is best and bound_ms <= best.lower_bound_ms * (1 + PROVEN):
        return best
    bound_ms = min(bound_ms, kept.value_ms)
    gap = (kept.value_ms - bound_ms) / bound_ms
    return replace(kept, lower_bound_ms=bound_ms, gap=gap)
