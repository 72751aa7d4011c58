"""Moves to a plan, one after the other: where single moves gain nothing (decision 0020).

Where links are long, a chain of neighbours pays only once it is whole: each of its moves alone
gains nothing. So all of them are judged together, by what a step takes when all are done
(`worth`). On the way no block is uncovered and no step takes much longer.

Who has begun a way goes on to its end: what a plan aims at and the order of its moves are the same
after each of them. So a way is left only where a step takes less time than where it was begun.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardline.core.ids import NodeId
    from shardline.core.spans import Span
    from shardline.swarm.sight import Sight

__all__ = ["GAIN_EACH", "gain_of", "way_to"]

GAIN: Final = 0.1
"""Share of a step's time that going for a plan has to save, with all its moves together. Links and
rates waver: less may be nothing."""
GAIN_EACH: Final = 0.01
"""And for each of these moves, as each is a load of weights."""
WORSE_MAX: Final = 1.1
"""How much longer a step may take between two moves."""


def gain_of(sight: Sight, aims: Mapping[NodeId, Span]) -> float:
    """Share of a step's time that these aims save once all are reached; 0 if that is too little."""
    moves = _needed(sight, aims)
    now_s = sight.value_s()
    if not moves or now_s == np.inf:
        return 0.0
    gain = 1 - sight.value_s(moves) / now_s
    return gain if gain >= max(GAIN, GAIN_EACH * len(moves)) else 0.0


def way_to(sight: Sight, aims: Mapping[NodeId, Span]) -> dict[NodeId, int]:
    """Who goes where, one after the other, until all aims are reached: first blocks by id.

    Empty if that is not worth it or if a step would take too long between two moves. Next is the
    first by id whose move makes no step longer; if there is none, who makes it longer by least.
    That depends on nothing before, so what is left of a way is the way from there.
    """
    if not gain_of(sight, aims):
        return {}
    left, now_s = _needed(sight, aims), sight.value_s()
    most_s = WORSE_MAX * now_s
    made: dict[NodeId, int] = {}
    while left:
        after_s: dict[NodeId, float] = {}
        for node, start in left.items():
            after_s[node] = sight.value_s({**made, node: start})
            if after_s[node] <= now_s:
                break
        mover, now_s = min(after_s.items(), key=itemgetter(1))
        if now_s > most_s:
            return {}
        made[mover] = left.pop(mover)
    return made


def _needed(sight: Sight, aims: Mapping[NodeId, Span]) -> dict[NodeId, int]:
    """Who has to go where, by id."""
    return {
        node: aims[node].start
        for row, node in enumerate(sight.ways.nodes)
        if node in aims and not sight.is_fixed(row) and aims[node].start != sight.starts[row]
    }
