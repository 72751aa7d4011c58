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
WORTH times what the node gives where it is, and GAIN of the sum; so the sum falls with each move
while nobody joins or leaves, no arrangement comes back, and moving ends. While the worst block has
BALANCED of the mean throughput nobody moves: no arrangement of the same spans has a worst block
above the mean.

Pure: there is no clock and no luck inside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
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
WORTH = 1.02
"""How many times more a node has to be worth where it goes. Nearer to 1 moves more."""
POWER = 14
"""Of the stand-in for the least throughput: larger is nearer to it and blinder beside it."""
GAIN, GAIN_OF_ALL = 0.02, 0.5
"""Share of the sum that a move has to take off: the first, and in large swarms the second divided
by the nodes. So a few moves a node at most can follow each other. Smaller ends nearer to the best.
"""
LUCK_LEAST = 0.9
"""How far luck may put a move back; less lets a node that does not move block others longer."""
LOOK_NODES = 40
"""In larger swarms single moves are fine enough, and two at once too many to look through."""
LOOKS = 40
"""First moves whose best second one is looked at; each takes about half a millisecond."""
LOOK_GAIN = 0.02
"""Share of the sum that two moves have to take off together."""
_HOLE = 0.05
"""What every block is taken to have besides, as a share of the mean: an uncovered one's pain is
finite, and small enough not to swallow the others' in a sum of 64-bit floats."""

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
    if not rates.any() or rates.min() >= BALANCED * rates.mean():
        return None
    taken = {block for record in ours if record.moves_to for block in _touched(record)}
    free = [
        record
        for record in ours
        if _movable(record)
        and (not rates.min() or now_s - record.placed_at_s >= REST_S)
        and taken.isdisjoint(_blocks(record.span))
    ]
    board = _board(free, ours, rates, taken, turn=int(now_s // TURN_S)) if free else None
    if board is None:
        return None
    found = _best(board, WORTH)
    if found is None and len(ours) <= LOOK_NODES:
        found = _best_first_of_two(board)
    if found is None:
        return None
    record = free[found.row]
    return record.node, Move(Span(found.start, found.start + len(record.span)), found.worth)


@dataclass(frozen=True, slots=True)
class _Found:
    """A move of the node in this row to this first block."""

    row: int
    start: int
    gain: float
    """What it takes off the sum of pains."""
    worth: float


@dataclass(frozen=True, slots=True)
class _Board:
    """Who is where: the nodes that may move, by row, and what all nodes give to each block.

    Throughputs are shares of the mean.
    """

    start: _Ints
    stop: _Ints
    each: _Floats
    """What a node gives to each of its blocks."""
    gain_least: float
    luck: _Floats
    rates: _Floats
    held: _Ints
    """How many nodes that are ready and stay hold each block."""
    taken: _Ints
    """How many blocks before each one other movers have to do with."""

    def moved(self, row: int, start: int) -> _Board:
        """The board after a move; the node that moved rests."""
        size = self.stop[row] - self.start[row]
        rates, held = self.rates.copy(), self.held.copy()
        for sign, first in ((-1, self.start[row]), (1, start)):
            rates[first : first + size] += sign * self.each[row]
            held[first : first + size] += sign
        rest = np.arange(len(self.start)) != row
        return _Board(
            start=self.start[rest],
            stop=self.stop[rest],
            each=self.each[rest],
            gain_least=self.gain_least,
            luck=self.luck[rest],
            rates=np.maximum(rates, 0.0),
            held=held,
            taken=self.taken,
        )


def _board(
    free: list[NodeRecord], ours: list[NodeRecord], rates: _Floats, taken: set[int], *, turn: int
) -> _Board:
    """What the records of a model's nodes say, in numbers; `free` are those that may move."""
    blocks, mean, usual = len(rates), float(rates.mean()), usual_rate(ours)
    held = np.zeros(blocks, dtype=np.int64)
    for record in ours:
        if _stays(record):
            held[record.start : record.stop] += 1
    return _Board(
        start=np.array([record.start for record in free]),
        stop=np.array([record.stop for record in free]),
        each=np.array([share(record, usual) / mean for record in free]),
        gain_least=min(GAIN, GAIN_OF_ALL / len(ours)),
        luck=np.array([_luck(record.node, turn) for record in free]),
        rates=rates / mean,
        held=held,
        taken=np.cumsum([0, *(block in taken for block in range(blocks))]),
    )


def _best(board: _Board, worth: float) -> _Found | None:
    """The move with the largest gain, weighted by luck, of those worth so much."""
    options = _moves(board, worth, 1)
    return options[0] if options else None


def _best_first_of_two(board: _Board) -> _Found | None:
    """A move that gains nothing but lets a second one gain: small swarms get stuck without."""
    if len(board.start) == 1:
        return None
    pain = float(_pain(board.rates).sum())
    best: _Found | None = None
    most = LOOK_GAIN * pain
    for first in _moves(board, 0.0, LOOKS):
        second = _best(board.moved(first.row, first.start), WORTH)
        # Luck may prefer a move of half the gain: even then both together have to be a gain.
        if second is not None and first.gain + LUCK_LEAST * second.gain > most:
            best, most = first, first.gain + LUCK_LEAST * second.gain
    return best


def _moves(board: _Board, worth: float, count: int) -> list[_Found]:
    """Allowed moves, the largest gains first; all at once: rows are nodes, columns blocks."""
    blocks, rows = len(board.rates), np.arange(len(board.start))
    least = board.gain_least * float(_pain(board.rates).sum()) if worth else -np.inf
    at = np.arange(blocks)
    here = (board.start[:, None] <= at) & (at < board.stop[:, None])
    without = np.maximum(board.rates - board.each[:, None] * here, 0.0)
    gives = _pain(without) - _pain(without + board.each[:, None])
    now = np.where(here, gives, 0.0).sum(1)
    # Blocks that nobody else holds stay within the window.
    alone = here & (board.held == 1)
    first_kept = np.where(alone.any(1), alone.argmax(1), blocks)
    last_kept = np.where(alone.any(1), blocks - 1 - alone[:, ::-1].argmax(1), -1)
    sizes = board.stop - board.start
    found: list[tuple[float, _Found]] = []
    for size in np.unique(sizes).tolist():
        some = rows[sizes == size]
        # Not from running sums: a hole's pain would swallow all others' in their differences.
        there = np.asarray(sliding_window_view(gives[some], size, axis=1).sum(-1))
        starts = np.asarray(range(there.shape[1]))
        allowed = np.asarray(
            (board.taken[size:] == board.taken[:-size])
            & (starts != board.start[some, None])
            & (starts <= first_kept[some, None])
            & (starts + size > last_kept[some, None])
            & (there > worth * now[some, None])
            & (there - now[some, None] > least)
        )
        gains = there - now[some, None]
        scores = np.where(allowed, gains * board.luck[some, None], -np.inf)
        for place in np.argsort(-scores, axis=None, kind="stable")[:count].tolist():
            row, start = divmod(place, scores.shape[1])
            if np.isfinite(scores[row, start]):
                here_now = float(now[some[row]])
                value = float(there[row, start]) / here_now if here_now > 0 else math.inf
                move = _Found(int(some[row]), start, float(gains[row, start]), value)
                found.append((float(scores[row, start]), move))
    found.sort(key=lambda option: -option[0])
    return [move for _, move in found[:count]]


def _pain(rates: _Floats) -> _Floats:
    """What a block's throughput, as a share of the mean, adds to the sum that moves lower."""
    return np.asarray((rates + _HOLE) ** -POWER)


def _luck(node: NodeId, turn: int) -> float:
    """LUCK_LEAST to 1, by node and turn: equal moves fall to each in turn."""
    digest = blake2b(f"{node}{turn}".encode(), digest_size=4).digest()
    return LUCK_LEAST + (1 - LUCK_LEAST) * int.from_bytes(digest, "big") / 2**32


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
