"""Moves to a plan, one after the other: where single moves gain nothing (decision 0020).

Where links are long, a chain of neighbours pays only once it is whole: each of its moves alone
gains nothing. So all of them are judged together, by what a step takes when all are done
(`worth`). On the way no block is uncovered and no step takes much longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardline.core.ids import NodeId
    from shardline.core.spans import Span
    from shardline.swarm.board import Board
    from shardline.swarm.sight import Sight

__all__ = ["first_towards", "gain_of"]

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


def first_towards(
    board: Board, sight: Sight, aims: Mapping[NodeId, Span]
) -> tuple[int, int, float] | None:
    """The first of the moves by which all aims are reached: row, first block, what all gain.

    None if that is not worth it or cannot be done. Who comes first by id and may go goes; the
    others wait until it has gone.
    """
    gain = gain_of(sight, aims)
    if not gain:
        return None
    moves, may, most_s = _needed(sight, aims), board.may(), WORSE_MAX * sight.value_s()
    rows = {node: row for row, node in enumerate(board.nodes)}
    free = {node for node, row in rows.items() if node in moves and may[row, moves[node]]}
    made: dict[NodeId, int] = {}
    while len(made) < len(moves):
        options = [node for node in moves if node not in made and (made or node in free)]
        follows = (node for node in options if sight.value_s({**made, node: moves[node]}) <= most_s)
        mover = next(follows, None)
        if mover is None:
            return None
        made[mover] = moves[mover]
    first = next(iter(made))
    return rows[first], made[first], gain


def _needed(sight: Sight, aims: Mapping[NodeId, Span]) -> dict[NodeId, int]:
    """Who has to go where, by id."""
    return {
        node: aims[node].start
        for row, node in enumerate(sight.ways.nodes)
        if node in aims and not sight.is_fixed(row) and aims[node].start != sight.starts[row]
    }
