"""Who moves where, so that the slowest block gets faster (BSNS, PAPER section 1).

A swarm is as fast as its worst served block: swarm throughput is the least, over the blocks, of the
summed throughputs of the nodes that hold it; both formulas are those of the runtime family that
BSNS builds on (Petals). How a mover is found is ours:

1. Every node works out from the records it sees, by the same pure function, which single move is
   best for the swarm now, and moves only if the mover is itself (`decide`). So a bottleneck that
   everybody sees makes one node move, not all of them.
2. The mover first says where it will go (`NodeRecord.moves_to`) and waits SETTLE_S: longer than two
   trips of news through the swarm, so of two who said so at the same time each sees the other.
   Then, and once more when the new blocks are loaded and the old ones are to be left, it asks
   `may_move`: one mover a block, the least id first, and none that would leave a block uncovered.

A move is worth what it takes off `sum over blocks of throughput ** -POWER`, a smooth stand-in for
the least throughput that also sees progress where many blocks are equally bad. It has to be worth
WORTH times what the node gives where it is; so that sum only ever falls while nobody joins or
leaves, no arrangement comes back, and moving ends. While the worst block has BALANCED of the mean
throughput nobody moves: no arrangement of the same spans has a worst block above the mean.

Pure: there is no clock and no luck inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shardline.core.spans import Span
from shardline.swarm.placement import share, throughputs, usual_rate
from shardline.swarm.records import NodeRecord, State

if TYPE_CHECKING:
    from collections.abc import Iterable



    from shardline.core.ids import NodeId

__all__ = ["SETTLE_S", "TURN_S", "Move", "best_move", "decide", "may_move", "swarm_throughput"]

SETTLE_S = 20.0
"""From saying that one will move to moving: twice the time in which news reaches everybody."""
REST_S = 600.0
"""How long a node stays where it went; bounds its moves, and what it loads, to six an hour."""
TURN_S = 120.0
"""How long the same nodes are preferred; a mover who does not move blocks others no longer."""
BALANCED = 0.96
"""Worst block's share of the mean throughput above which all is well. Nearer to 1 moves more."""
WORTH = 1.05
"""How many times more a node has to be worth where it goes. Nearer to 1 moves more."""
POWER = 8
"""Of the stand-in for the least throughput: larger is nearer to it and blinder beside it."""
_HOLE = 1e-3
"""What an uncovered block is taken to have, as a share of the mean."""

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Move:
    """What a node should hold instead of what it holds."""

    span: Span
    worth: float
    """How many times more the node is worth to the swarm there; inf where it is worth nothing."""


def swarm_throughput(records: Iterable[NodeRecord], *, blocks: int) -> float:
    """Steps a second that all chains together can do; 0 if a block is uncovered.

    Nodes that load or move count where they will be, nodes that leave do not.
    """
    return min(
        throughputs((record for record in records if record.state is not State.LEAVING), blocks)
    )


def decide(me: NodeId, records: Iterable[NodeRecord], *, now_s: float) -> Move | None:
    """Where this node should move now, or None; `records` holds its own, as the others see it.

    `now_s` is seconds since 1970. Call it about once a minute, and at a time of the node's own.
    """
    known = list(records)
    mine = next((record for record in known if record.node == me), None)
    if mine is None or not _movable(mine):
        return None
    chosen = best_move(
        known, blocks=mine.blocks, fingerprint=mine.fingerprint, dtype=mine.dtype, now_s=now_s
    )
    return chosen[1] if chosen and chosen[0] == me else None


def may_move(me: NodeId, records: Iterable[NodeRecord]) -> bool:
    """Whether this node, whose record says where it will go, may still go there.

    Not if another mover of lesser id has to do with one of its blocks, and not if a block that it
    leaves would be held by nobody who is ready and stays.
    """
    known = list(records)
    mine = next((record for record in known if record.node == me), None)
    to = mine.moves_to if mine else None
    if mine is None or to is None:
        return False
    others = [record for record in _same(known, mine) if record.node != me]
    ours = _touched(mine)
    if any(record.node < me and ours & _touched(record) for record in others if record.moves_to):
        return False
    stay = {block for record in others if _stays(record) for block in _blocks(record.span)}
    return set(_blocks(mine.span)) - set(_blocks(to)) <= stay


def best_move(
    records: Iterable[NodeRecord], *, blocks: int, fingerprint: str, dtype: str, now_s: float
) -> tuple[NodeId, Move] | None:
    """The swarm's next move and who makes it, the same for all who see the same records.

    Records of other models and dtypes are passed over: they serve no chain of this one.
    """
    ours = [
        record
        for record in records
        if record.blocks == blocks
        and record.fingerprint == fingerprint
        and record.dtype == dtype
        and record.state is not State.LEAVING
    ]
    rates = np.array(throughputs(ours, blocks))
    mean = float(rates.mean())
    if not mean or rates.min() >= BALANCED * mean:
        return None
    movers = [record for record in ours if record.moves_to]
    taken = np.zeros(blocks, dtype=bool)
    for block in {block for record in movers for block in _touched(record)}:
        taken[block] = True
    urgent = not rates.min()
    free = [
        record
        for record in ours
        if _movable(record)
        and (urgent or now_s - record.placed_at_s >= REST_S)
        and not taken[record.start : record.stop].any()
    ]
    if not free:
        return None
    held = np.zeros(blocks, dtype=np.int64)
    for record in ours:
        if _stays(record):
            held[record.start : record.stop] += 1
    return _Search(free, ours, rates / mean, held, taken, mean).best(int(now_s // TURN_S))


class _Search:
    """All single moves at once: rows are nodes, columns blocks, then windows."""

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        free: list[NodeRecord],
        ours: list[NodeRecord],
        rates: _Floats,
        held: _Ints,
        taken: NDArray[np.bool_],
        mean: float,
    ) -> None:
        self._free = free
        blocks = len(rates)
        start = np.array([record.start for record in free])
        stop = np.array([record.stop for record in free])
        usual = usual_rate(ours)
        own = np.array([share(record, usual) / mean for record in free])
        at = np.arange(blocks)
        here = (start[:, None] <= at) & (at < stop[:, None])
        without = np.maximum(rates - own[:, None] * here, 0.0)
        gives = _pain(without) - _pain(without + own[:, None])
        self._start, self._stop = start, stop
        self._gives = _running_sum(gives)
        self._taken = _running_sum(taken[None, :].astype(np.float64))[0]
        # Blocks that nobody else holds stay within the window.
        alone = here & (held == 1)
        self._first_kept = np.where(alone.any(1), alone.argmax(1), blocks)
        self._last_kept = np.where(alone.any(1), blocks - 1 - alone[:, ::-1].argmax(1), -1)

    def best(self, turn: int) -> tuple[NodeId, Move] | None:
        """The move with the largest gain, weighted by whose turn it is."""
        sizes = self._stop - self._start
        rows = np.arange(len(self._free))
        now = self._gives[rows, self._stop] - self._gives[rows, self._start]
        luck = np.array([_luck(record.node, turn) for record in self._free])
        options: list[tuple[float, int, NodeId, Move]] = []
        for size in np.unique(sizes):
            some = rows[sizes == size]
            there = self._gives[some, size:] - self._gives[some, :-size]
            starts = np.arange(there.shape[1])
            allowed = (
                (self._taken[size:] == self._taken[:-size])
                & (starts <= self._first_kept[some, None])
                & (starts + size > self._last_kept[some, None])
                & (there > WORTH * now[some, None])
            )
            gain = np.where(allowed, (there - now[some, None]) * luck[some, None], 0.0)
            row, start = np.unravel_index(gain.argmax(), gain.shape)
            if gain[row, start] > 0:
                record = self._free[some[row]]
                worth = there[row, start] / now[some[row]] if now[some[row]] else np.inf
                span = Span(int(start), int(start + size))
                options.append(
                    (-gain[row, start], int(size), record.node, Move(span, float(worth)))
                )
        if not options:
            return None
        _, _, node, move = min(options, key=lambda option: option[:3])
        return node, move


def _pain(rates: _Floats) -> _Floats:
    """What a block's throughput, as a share of the mean, adds to the sum that moves lower."""
    return np.asarray((rates + _HOLE) ** -POWER)


def _running_sum(rows: _Floats) -> _Floats:
    """From 0, along each row."""
    return np.concatenate([np.zeros((len(rows), 1)), rows.cumsum(1)], axis=1)


def _luck(node: NodeId, turn: int) -> float:
    """Half to one, by node and turn: equal moves fall to each in turn."""
    digest = blake2b(f"{node}{turn}".encode(), digest_size=4).digest()
    return 0.5 + int.from_bytes(digest, "big") / 2**33


def _movable(record: NodeRecord) -> bool:
    """Whether this node says that it moves when it should, and is not about to already."""
    return (
        record.state is State.READY
        and not record.pinned
        and record.placed_at_s > 0
        and record.moves_to is None
    )


def _stays(record: NodeRecord) -> bool:
    return record.state is State.READY and record.moves_to is None


def _same(records: Iterable[NodeRecord], mine: NodeRecord) -> list[NodeRecord]:
    """Those whose blocks are the same as this node's."""
    return [
        record
        for record in records
        if record.fingerprint == mine.fingerprint
        and record.blocks == mine.blocks
        and record.dtype == mine.dtype
    ]


def _blocks(span: Span) -> range:
    return range(span.start, span.stop)


def _touched(record: NodeRecord) -> set[int]:
    """The blocks that a mover leaves, keeps or comes to."""
    to = record.moves_to or record.span
    return {*_blocks(record.span), *_blocks(to)}
