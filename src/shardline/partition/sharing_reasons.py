"""Why each node of a plan with replicas has its blocks, and what it adds, in a sentence each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardline.core.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shardline.core.spans import Span
    from shardline.partition.problem import Node, Problem
    from shardline.partition.sharing import Carried

__all__ = ["explain_shared"]

NAMED_MAX = 3
TOLD_TOKENS = 0.05
"""Tokens a second; fewer look like none in tenths."""


def explain_shared(  # noqa: PLR0913, PLR0917 - all that is known of a shared plan
    problem: Problem,
    held: Mapping[int, Span],
    figures: Carried,
    adds: Mapping[int, float],
    order: Sequence[int],
    slowest: Span,
) -> tuple[str, ...]:
    """A sentence for each node, those that hold blocks first, in this order.

    `adds` is what the swarm would lose without a node, where it is known; `slowest` are the blocks
    of the slowest stage of the best chain.
    """
    said: list[str] = []
    for node in order:
        span, name = held[node], problem.nodes[node].name
        stage_ms = 1e3 * figures.busy[node] / figures.passing[node]
        has = f"{name} has blocks {span} ({stage_ms:.1f} ms a token, busy {figures.busy[node]:.0%})"
        why = _beside(problem, held, node, slowest)
        said.append(f"{has}: {why}{_added(adds.get(node), figures.tokens_per_s)}")
    idle = (node for at, node in enumerate(problem.nodes) if at not in held)
    return (*said, *(_left_out(problem, node) for node in idle))


def _beside(problem: Problem, held: Mapping[int, Span], node: int, slowest: Span) -> str:
    span = held[node]
    shared = {
        other: both
        for other, both in held.items()
        if other != node and both.start < span.stop and span.start < both.stop
    }
    alone = [block for block in range(span.start, span.stop)
             if not any(block in both for both in shared.values())]  # fmt: skip
    if len(alone) == len(span):
        return "no other has them"
    names = [problem.nodes[other].name for other in sorted(shared, key=lambda one: shared[one])]
    several = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    text = f"shares them with {', '.join(names[:NAMED_MAX])}{several}"
    if alone:
        return f"{text}, but for {len(alone)} that no other has"
    if span.start < slowest.stop and slowest.start < span.stop:
        return f"{text}; {slowest} were the slowest of the best chain"
    return text


def _added(tokens_per_s: float | None, total: float) -> str:
    if tokens_per_s is None:
        return ""
    if tokens_per_s >= total:
        return "; without it there is no way"
    if tokens_per_s < TOLD_TOKENS:
        return "; it adds next to nothing"
    return f"; +{tokens_per_s:.1f} tokens/s"


def _left_out(problem: Problem, node: Node) -> str:
    least = min(block.parameter_bytes + block.cache_bytes for block in problem.blocks)
    if node.stream_bytes_per_s is None and node.memory_bytes < least:
        return f"{node.name} is unused: {format_bytes(node.memory_bytes)} hold no block"
    return f"{node.name} is unused: the others carry as much without it"
