"""Who moves where, so that the slowest block gets faster (BSNS, PAPER section 1).

A swarm is as fast as its worst served block. What each block gets is what all chains together can
carry when they share the work best (`capacity`; decision 0017 says why it is not what the formula
of the runtime family that BSNS builds on gives). How a mover is found is ours too:

1. Every node works out from the records it sees, by the same pure function, which single move is
   best for the swarm now, and moves only if the mover is itself (`decide`). So a bottleneck that
   everybody sees makes one node move, not all of them.
2. The mover first says where it will go (`NodeRecord.moves_to`) and waits SETTLE_S: longer than two
   trips of news through the swarm, so of two who said so at the same time each sees the other.
   Then, and once more when the new blocks are loaded and the old ones are to be left, it asks
   `may_move`: one mover a block, the least id first, and none that would leave a block uncovered.

A move is worth what it takes off `sum over blocks of throughput ** -POWER`, a smooth stand-in for
the least throughput that also sees progress where many blocks are equally bad. It has to be worth
GAIN of the sum; so the sum falls with each move while nobody joins or leaves, no arrangement comes
back, and moving ends. While the worst block has BALANCED of the mean throughput nobody moves: no
arrangement of the same nodes has a worst block above the mean. Spans keep their sizes: a node holds
all that fits, as more blocks never lower what a swarm carries.

Where links are looked at (`step_bytes`; decision 0020), a hole still comes first; then moves to a
plan (`planned`) that saves a tenth of a step's time; then moves as above, of those that each save a
hundredth. All are judged by what a step takes (`worth`): it falls with each of the latter, and
where a way to a plan ends or is left it is less than where it began. So here, too, moving ends.

Pure: there is no clock and no luck inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from shardline.core.spans import Span
from shardline.swarm.aims import aims_of
from shardline.swarm.board import LUCK_LEAST, Board, board_of, stays
from shardline.swarm.capacity import Floats, levels
from shardline.swarm.placement import throughputs
from shardline.swarm.planned import GAIN_EACH, way_to
from shardline.swarm.records import NodeRecord, State
from shardline.swarm.sight import sight_of
from shardline.swarm.worth import POWER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from shardline.core.ids import NodeId
    from shardline.swarm.sight import Sight

__all__ = ["SETTLE_S", "TURN_S", "Move", "best_move", "decide", "may_move", "swarm_throughput"]

SETTLE_S = 20.0
"""From saying that one will move to moving: twice the time in which news reaches everybody."""
REST_S = 600.0
"""How long a node stays where it went; bounds its moves, and what it loads, to six an hour."""
TURN_S = 120.0
"""How long the same nodes are preferred; a mover who does not move blocks others no longer."""
BALANCED = 0.95
"""Worst block's share of the mean throughput above which all is well. Nearer to 1 moves more."""
GAIN, GAIN_OF_ALL = 0.1, 0.5
"""Share of the sum that a move has to take off: the first, and in large swarms the second divided
by the nodes. So a few moves a node at most can follow each other. Smaller ends nearer to the best.
"""
LOOK_NODES = 40
"""In larger swarms single moves are fine enough, and two at once too many to look through."""
LOOKS = 100
"""Moves that are tried out; each takes up to half a millisecond."""
FIRSTS, SECONDS = 40, 10
"""First moves whose best second one is looked for, and among how many."""
LOOK_GAIN = 0.02
"""Share of the sum that two moves have to take off together."""
_HOLE = 0.05
"""What every block is taken to have besides, as a share of the mean: an uncovered one's pain is
finite, and small enough not to swallow the others' in a sum of 64-bit floats."""


@dataclass(frozen=True, slots=True)
class Move:
    """What a node should hold instead of what it holds."""

    span: Span
    gain: float
    """What it takes off the sum that moves lower, as a share; may be below 0 for one of several."""


def swarm_throughput(records: Iterable[NodeRecord], *, blocks: int) -> float:
    """Steps a second that all chains together can do; 0 if a block is uncovered.

    Nodes that load or move count where they will be, nodes that leave do not.
    """
    return min(
        throughputs((record for record in records if record.state is not State.LEAVING), blocks)
    )


def decide(
    me: NodeId,
    records: Iterable[NodeRecord],
    *,
    now_s: float,
    step_bytes: int | None = None,
    refined: bool = False,
) -> Move | None:
    """Where this node should move now, or None; `records` holds its own, as the others see it.

    `now_s` is seconds since 1970. Call it about once a minute, and at a time of the node's own.
    With `step_bytes`, what a step carries from block to block, links count too: that takes tenths
    of a second. `refined` plans are searched for, which may take seconds; the others are those of
    the nearest scheme.
    """
    known = list(records)
    mine = next((record for record in known if record.node == me), None)
    if mine is None or not _movable(mine):
        return None
    chosen = best_move(
        known,
        blocks=mine.blocks,
        fingerprint=mine.fingerprint,
        dtype=mine.dtype,
        now_s=now_s,
        step_bytes=step_bytes,
        refined=refined,
    )
    return chosen[1] if chosen and chosen[0] == me else None


def may_move(me: NodeId, records: Iterable[NodeRecord], *, yielded: bool = False) -> bool:
    """Whether this node, whose record says where it will go, may still go there.

    Not if another mover of lesser id has to do with one of its blocks, and not if a block that it
    leaves would be held by nobody who is ready and stays. With `yielded`: whether it might if the
    movers of greater id had said already that they stay, as they will.
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
    stay = {
        block
        for record in others
        if stays(record) or (yielded and _yields(record, to=me, over=ours))
        for block in _blocks(record.span)
    }
    return set(_blocks(mine.span)) - set(_blocks(to)) <= stay


def best_move(  # noqa: PLR0913 - whose move, and what is known
    records: Iterable[NodeRecord],
    *,
    blocks: int,
    fingerprint: str,
    dtype: str,
    now_s: float,
    step_bytes: int | None = None,
    refined: bool = False,
) -> tuple[NodeId, Move] | None:
    """The swarm's next move and who makes it, the same for all who see the same records.

    Records of other models and dtypes are passed over: they serve no chain of this one. For
    `step_bytes` and `refined` see `decide`.
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
    if not rates.any():
        return None
    hole, mean = not rates.min(), float(rates.mean())
    uneven = rates.min() < BALANCED * mean
    if not uneven and step_bytes is None:
        return None
    taken = {block for record in ours if record.moves_to for block in _touched(record)}
    free = [
        record
        for record in ours
        if _movable(record)
        and (hole or now_s - record.placed_at_s >= REST_S)
        and taken.isdisjoint(_blocks(record.span))
    ]
    sight = None if hole or step_bytes is None or not free else sight_of(ours, step_bytes)
    if not free or not (uneven or sight):
        return None
    gain_least = min(GAIN, GAIN_OF_ALL / len(ours))
    turn = int(now_s // TURN_S)
    board = board_of(free, ours, taken, mean=mean, gain_least=gain_least, turn=turn)
    way = way_to(sight, aims_of(sight, refined=refined)) if sight else {}
    if way:
        return _move(board, _begun(board, way))
    pairs = len(ours) <= LOOK_NODES
    return _move(board, _most_even(board, sight, pairs=pairs)) if uneven else None


def _move(board: Board, found: _Found | None) -> tuple[NodeId, Move] | None:
    if found is None:
        return None
    size = int(board.stop[found.row] - board.start[found.row])
    gain = 1 - found.pain / _pain(board.work)
    return board.nodes[found.row], Move(Span(found.start, found.start + size), gain)


def _begun(board: Board, way: Mapping[NodeId, int]) -> _Found | None:
    """The first move of a way; None while that node may not go: the others wait for it."""
    node, start = next(iter(way.items()))
    row = board.nodes.index(node) if node in board.nodes else None
    if row is None or not board.may()[row, start]:
        return None
    return _Found(row, start, _pain(board.with_move(row, start)))


def _most_even(board: Board, sight: Sight | None, *, pairs: bool) -> _Found | None:
    """The move that helps the slowest blocks most; where links are known, one that saves time."""
    if sight:
        most_s = (1 - GAIN_EACH) * sight.value_s()
        return _best(board, saves=lambda node, start: sight.value_s({node: start}) <= most_s)
    return _best(board) or (_best_first_of_two(board) if pairs else None)


@dataclass(frozen=True, slots=True)
class _Found:
    """A move of the node in this row to this first block."""

    row: int
    start: int
    pain: float
    """The sum that moves lower, after it."""


def _best(
    board: Board, looks: int = LOOKS, *, saves: Callable[[NodeId, int], bool] | None = None
) -> _Found | None:
    """The move with the least pain after it, stretched by luck, of those worth making."""
    most = (1 - board.gain_least) * _pain(board.work)
    options = [move for move in _looked_at(board, looks) if move.pain < most]
    options.sort(key=lambda move: move.pain / board.luck[move.row])
    allowed = (m for m in options if saves is None or saves(board.nodes[m.row], m.start))
    return next(allowed, None)


def _best_first_of_two(board: Board) -> _Found | None:
    """A move that gains nothing but lets a second one gain: small swarms get stuck without."""
    if len(board.start) == 1:
        return None
    best: _Found | None = None
    most = (1 - LOOK_GAIN) * _pain(board.work)
    for first in sorted(_looked_at(board, LOOKS), key=lambda move: move.pain)[:FIRSTS]:
        second = _best(board.moved(first.row, first.start), SECONDS)
        # Luck may prefer another second one: even then both together have to be a gain.
        if second is not None and second.pain / LUCK_LEAST < most:
            best, most = first, second.pain / LUCK_LEAST
    return best


def _looked_at(board: Board, looks: int) -> list[_Found]:
    """The most promising of the allowed moves, with what they gain."""
    return [
        _Found(row, start, _pain(board.with_move(row, start)))
        for row, start in _promising(board, looks)
    ]


def _promising(board: Board, looks: int) -> list[tuple[int, int]]:
    """Allowed moves by row and first block: those from where work eases least to where most.

    By the slope of the sum that moves lower, at each span's worst block and on its mean.
    """
    blocks = len(board.held)
    slope = np.asarray((levels(board.work) + _HOLE) ** -(POWER + 1))
    may, sizes = board.may(), board.stop - board.start
    scores = np.full(may.shape, -np.inf)
    for size in np.unique(sizes).tolist():
        some = np.flatnonzero(sizes == size)
        windows = sliding_window_view(slope, size)
        value = np.asarray(windows.max(-1) + windows.mean(-1))
        gains = board.rate[some, None] * (value - value[board.start[some], None])
        scores[some, : len(value)] = np.where(may[some, : len(value)], gains, -np.inf)
    ranked = np.argsort(-scores, axis=None, kind="stable")[:looks].tolist()
    places = (divmod(place, blocks) for place in ranked)
    return [(row, start) for row, start in places if np.isfinite(scores[row, start])]


def _pain(work: Floats) -> float:
    """The sum that moves lower."""
    return float(((levels(work) + _HOLE) ** -POWER).sum())


def _movable(record: NodeRecord) -> bool:
    """Whether this node says that it moves when it should, and is not about to already."""
    return (
        record.state is State.READY
        and not record.pinned
        and record.placed_at_s > 0
        and record.moves_to is None
    )


def _yields(record: NodeRecord, *, to: NodeId, over: set[int]) -> bool:
    """Whether this node means to move, and lets that mover of these blocks go first."""
    moving = record.state is State.READY and record.moves_to is not None
    return moving and record.node > to and bool(over & _touched(record))


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
