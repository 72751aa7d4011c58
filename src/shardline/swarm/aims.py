"""Where nodes should be in the end, by the planners of `partition` (PAPER 2, 3).

A plan is one chain, and a swarm has many: chains are planned one after the other, each on the nodes
that those before it left over, as long as these can hold the model. The nearest scheme gives a
chain within milliseconds. A search takes up to seconds, and nodes make it in the background.

Both end by counts and not by a clock, and the numbers that are planned with are rounded: nodes
whose news differs by a hair aim at the same, and plan anew only when something has changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import isfinite, log
from typing import TYPE_CHECKING, Final

import numpy as np

from shardline.core.errors import BadInput
from shardline.core.spans import Span

if TYPE_CHECKING:
    from shardline.core.ids import NodeId
    from shardline.partition import Problem
    from shardline.swarm.capacity import Floats
    from shardline.swarm.sight import Sight

__all__ = ["aims_of"]

STEP: Final = 1.15
"""Factor between two numbers that planning can tell apart; links and rates waver by less."""
OBJECTIVE: Final = "latency"
"""Of each chain; what all chains together can carry is what `worth` and other moves see to."""
SEARCH_NODES_MAX: Final = 16
"""In larger swarms schemes alone are followed: a search that ends by counts takes a second or two
up to here, and many beyond."""
PLANS_KEPT: Final = 64


def aims_of(sight: Sight, *, refined: bool = False) -> dict[NodeId, Span]:
    """The spans that nodes should hold, for those that a plan has a use for.

    By the nearest scheme; `refined`: by a search. Spans keep their sizes, and of the windows around
    what is planned the nearest to where a node is now is taken. Where nodes are that can move has
    no other say: so the aims stay the same while nodes go there.
    """
    method = "search" if refined and len(sight.records) <= SEARCH_NODES_MAX else "scheme"
    sizes = sight.stops - sight.starts
    blocks = sight.worth.blocks
    left = list(range(len(sizes)))
    aims: dict[NodeId, Span] = {}
    while sizes[left].sum() >= blocks:
        chain = _planned(_asked(sight, left), method)
        for place, start, stop in chain:
            row = left[place]
            size = int(sizes[row])
            least, most = max(0, stop - size), min(start, blocks - size)
            first = min(max(int(sight.starts[row]), least), most)
            aims[sight.ways.nodes[row]] = Span(first, first + size)
        if not chain:
            break
        used = {place for place, _, _ in chain}
        left = [row for place, row in enumerate(left) if place not in used]
    return aims


@dataclass(frozen=True, slots=True)
class _Asked:
    """A problem of one chain, rounded, so that it can be looked up."""

    blocks: int
    block_s: float
    step_bytes: int
    nodes: tuple[tuple[int, float, Span | None], ...]
    """Room in blocks, speed, and the only blocks that it may have."""
    delay_s: tuple[tuple[float, ...], ...]
    """The caller last, who is as near to each node as nodes are to each other."""
    bytes_per_s: tuple[tuple[float, ...], ...]

    def problem(self) -> Problem:
        """For `partition`, where a block's parameters are one byte."""
        from shardline.partition import Block, Node, Problem  # noqa: PLC0415 - callers never plan

        return Problem(
            blocks=(Block(self.block_s, 1, self.step_bytes),) * self.blocks,
            nodes=tuple(
                Node(str(place), room, speed, holds=held)
                for place, (room, speed, held) in enumerate(self.nodes)
            ),
            delay_s=np.array(self.delay_s),
            bytes_per_s=np.array(self.bytes_per_s),
            input_bytes=self.step_bytes,
        )


@lru_cache(maxsize=PLANS_KEPT)
def _planned(asked: _Asked, method: str) -> tuple[tuple[int, int, int], ...]:
    """Place, start and stop of each share; nothing if there is no plan."""
    from shardline.partition import plan  # noqa: PLC0415 - callers never plan

    try:
        found = plan(asked.problem(), method, objective=OBJECTIVE, budget_s=None)
    except BadInput:
        return ()
    return tuple((int(placed.node), placed.start, placed.stop) for placed in found.assignment)


def _asked(sight: Sight, rows: list[int]) -> _Asked:
    usual = _round(float(np.median(sight.worth.rates)))
    ends = np.ix_(rows, rows)
    return _Asked(
        blocks=sight.worth.blocks,
        block_s=1 / usual,
        step_bytes=sight.ways.step_bytes,
        nodes=tuple(
            (len(held), _round(float(sight.worth.rates[row])) / usual, held if fixed else None)
            for row in rows
            for held in (Span(int(sight.starts[row]), int(sight.stops[row])),)
            for fixed in (sight.is_fixed(row),)
        ),
        delay_s=_with_caller(sight.ways.delay_s[ends]),
        bytes_per_s=_with_caller(sight.ways.bytes_per_s[ends]),
    )


def _with_caller(links: Floats) -> tuple[tuple[float, ...], ...]:
    """Rounded, [from, to], the caller last: its links are the others' medians."""
    count = len(links)
    others = np.where(np.eye(count, dtype=bool), np.nan, links) if count > 1 else links
    found = np.zeros((count + 1, count + 1))
    found[:count, :count] = links
    found[count, :count] = np.nanmedian(others, axis=0)
    found[:count, count] = np.nanmedian(others, axis=1)
    return tuple(tuple(_round(link) for link in row) for row in found.tolist())


def _round(number: float) -> float:
    """To a power of STEP; 0 and infinity stay."""
    return STEP ** round(log(number) / log(STEP)) if number > 0 and isfinite(number) else number
