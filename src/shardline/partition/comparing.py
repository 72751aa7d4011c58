"""Every method on one problem, each against the best bound that any of them found."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from shardline.core.errors import BadInput
from shardline.partition.solve import BUDGET_S, EXACT_NODES, METHODS, Plan, plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardline.partition.problem import Problem

__all__ = ["compare"]

NODES_MAX = {"exact": EXACT_NODES, "mip": 16}


def compare(
    problem: Problem,
    methods: Sequence[str] | None = None,
    *,
    objective: str | float = "throughput",
    seed: int = 0,
    budget_s: float | None = BUDGET_S,
) -> dict[str, Plan | BadInput]:
    """Each method's plan, or what it said instead.

    Bound and gap of all are those of the best bound. By default all methods but `search`, which is
    `auto` for many nodes, and without `exact` and `mip` where these would take long.
    """
    found: dict[str, Plan | BadInput] = {}
    bound_ms = 0.0
    for method in methods or [method for method in METHODS if method != "search"]:
        if len(problem.nodes) > NODES_MAX.get(method, len(problem.nodes)):
            continue
        try:
            one = plan(
                problem, method, objective=objective, seed=seed, budget_s=budget_s,
                bound_ms=bound_ms or None,
            )  # fmt: skip
        except BadInput as error:
            found[method] = error
            continue
        bound_ms = max(bound_ms, one.lower_bound_ms)
        found[method] = one
    for method, one in found.items():
        if isinstance(one, Plan):
            gap = max(0.0, one.value_ms / bound_ms - 1)
            found[method] = replace(one, lower_bound_ms=bound_ms, gap=gap)
    return found
