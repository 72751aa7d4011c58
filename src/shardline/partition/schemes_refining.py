"""A plan at once and better ones as they are found: what a swarm does when a node joins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardline.core.errors import BadInput
from shardline.partition.solve import BUDGET_S, plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardline.partition.problem import Problem
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
) -> Iterator[Plan]:
    """The nearest scheme's plan, then plans by `auto`, each better than the one before.

    The first comes within milliseconds; the others take `budget_s` in all, and are sought only as
    they are asked for, so run this where it may take time. Raises BadInput if no plan is possible.
    """
    best: Plan | None = None
    for turn in range(ROUNDS + 1):
        part = 2 ** (turn - 1) / (2**ROUNDS - 1)
        method, budget_now_s = ("auto", part * budget_s) if turn else ("scheme", None)
        try:
            found = plan(problem, method, objective=objective, seed=seed, budget_s=budget_now_s)
        except BadInput:
            if best is None and turn == ROUNDS:
                raise
            continue  # no scheme fits, or the time was short: others follow
        if best is None or found.value_ms < best.value_ms:
            best = found
            yield found
        if best.value_ms <= found.lower_bound_ms * (1 + PROVEN):
            return
