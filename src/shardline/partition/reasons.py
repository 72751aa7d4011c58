"""Why each node has its blocks, and what holds it back, in one sentence each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardline.core.units import format_bytes

if TYPE_CHECKING:
    from shardline.partition.costs import Costs
    from shardline.partition.problem import Figures, Node, Problem, Share

__all__ = ["explain"]

TOLD_S = 2e-5
"""Closer than this to the slowest stage looks the same in a table of tenths of a millisecond."""


def explain(
    problem: Problem, costs: Costs, chain: tuple[Share, ...], figures: Figures
) -> tuple[str, ...]:
    """A sentence for each node, those of the chain first; `costs` are all nodes' own."""
    rooms = costs.capacities().tolist()
    said = [_used(problem, share, rooms[share.node], figures, at) for at, share in enumerate(chain)]
    used = {share.node for share in chain}
    lightest_s = min(block.work_s for block in problem.blocks)
    idle = [index for index in range(len(problem.nodes)) if index not in used]
    unused = (_unused(problem.nodes[at], rooms[at], lightest_s, figures) for at in idle)
    return (*said, *unused)


def _used(problem: Problem, share: Share, room: int, figures: Figures, at: int) -> str:
    node = problem.nodes[share.node]
    stage_s, links_s = figures.stage_s[at], figures.in_s[at] + figures.out_s[at]
    parts = f"{1e3 * stage_s:.1f} ms a step, {1e3 * links_s:.1f} of them on its links"
    held = f"{node.name} has blocks {share.start}:{share.stop} ({parts})"
    as_told = stage_s >= figures.bottleneck_s - TOLD_S
    slowest = ", and it is the slowest stage" if as_told else ""
    if figures.overflow_s[at]:
        streamed = f"{1e3 * figures.overflow_s[at]:.1f} ms go into streaming what does not fit"
        return f"{held}: memory holds it back, {streamed}{slowest}"
    if room <= share.stop - share.start < len(problem.blocks):
        more = f"{format_bytes(node.memory_bytes)} hold no more"
        return f"{held}: memory holds it back, {more}{slowest}"
    if links_s > figures.work_s[at]:
        return f"{held}: its links hold it back, computing takes less than they do{slowest}"
    return f"{held}: compute holds it back, at {node.speed:.2f} of the usual speed{slowest}"


def _unused(node: Node, room: int, lightest_s: float, figures: Figures) -> str:
    if not room:
        return f"{node.name} is unused: {format_bytes(node.memory_bytes)} hold no block"
    least_s = node.overhead_s + lightest_s / node.speed
    if least_s > figures.bottleneck_s:
        return (
            f"{node.name} is unused: one block would take it {1e3 * least_s:.1f} ms, "
            "longer than the slowest stage"
        )
    return f"{node.name} is unused: with its links and speed the others are better without it"
