"""Who is where, in numbers, and who may go where without uncovering a block."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import numpy as np

from shardline.swarm.capacity import Floats, Ints, with_node
from shardline.swarm.placement import rate_of, usual_rate, work_of
from shardline.swarm.records import NodeRecord, State

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardline.core.ids import NodeId

__all__ = ["LUCK_LEAST", "Board", "board_of", "stays"]

LUCK_LEAST: Final = 0.9
"""How far luck may put a move back; less lets a node that does not move block others longer."""


@dataclass(frozen=True, slots=True)
class Board:
    """Who is where: the nodes that may move, by row, and what all nodes give to each block.

    Rates and throughputs are shares of the mean throughput.
    """

    nodes: tuple[NodeId, ...]
    start: Ints
    stop: Ints
    rate: Floats
    gain_least: float
    """Share of what moves lower that each has to take off."""
    luck: Floats
    work: Floats
    """What can only be done within each run of blocks."""
    held: Ints
    """How many nodes that are ready and stay hold each block."""
    taken: Ints
    """How many blocks before each one other movers have to do with."""

    def with_move(self, row: int, start: int) -> Floats:
        """The work once this row's node begins there."""
        old, stop, rate = int(self.start[row]), int(self.stop[row]), float(self.rate[row])
        return with_node(with_node(self.work, old, stop, -rate), start, start + stop - old, rate)

    def moved(self, row: int, start: int) -> Board:
        """The board after a move; the node that moved rests."""
        size = int(self.stop[row] - self.start[row])
        held = self.held.copy()
        for sign, first in ((-1, self.start[row]), (1, start)):
            held[first : first + size] += sign
        rest = np.arange(len(self.start)) != row
        return replace(
            self,
            nodes=self.nodes[:row] + self.nodes[row + 1 :],
            start=self.start[rest],
            stop=self.stop[rest],
            rate=self.rate[rest],
            luck=self.luck[rest],
            work=self.with_move(row, start),
            held=held,
        )

    def may(self) -> NDArray[np.bool_]:
        """At [row, first block]: whether this node may move there.

        Blocks that nobody else holds stay with it, and those of other movers are left to these.
        """
        blocks = len(self.held)
        at: Ints = np.arange(blocks)
        start, stop = self.start[:, None], self.stop[:, None]
        alone = (start <= at) & (at < stop) & (self.held == 1)
        first_kept = np.where(alone.any(1), alone.argmax(1), blocks)[:, None]
        last_kept = np.where(alone.any(1), blocks - 1 - alone[:, ::-1].argmax(1), -1)[:, None]
        ends = at + stop - start
        inside = ends <= blocks
        free = self.taken[np.minimum(ends, blocks)] == self.taken[at]
        keeps = (at <= first_kept) & (ends > last_kept)
        return np.asarray(inside & free & keeps & (at != start))


def board_of(  # noqa: PLR0913 - who, beside whom, and how they are counted
    free: list[NodeRecord],
    ours: list[NodeRecord],
    taken: set[int],
    *,
    mean: float,
    gain_least: float,
    turn: int,
) -> Board:
    """What the records of a model's nodes say, in numbers; `free` are those that may move."""
    blocks, usual = ours[0].blocks, usual_rate(ours)
    held = np.zeros(blocks, dtype=np.int64)
    for record in ours:
        if stays(record):
            held[record.start : record.stop] += 1
    return Board(
        nodes=tuple(record.node for record in free),
        start=np.array([record.start for record in free]),
        stop=np.array([record.stop for record in free]),
        rate=np.array([rate_of(record, usual) / mean for record in free]),
        gain_least=gain_least,
        luck=np.array([_luck(record.node, turn) for record in free]),
        work=work_of(ours, blocks) / mean,
        held=held,
        taken=np.cumsum([0, *(block in taken for block in range(blocks))]),
    )


def stays(record: NodeRecord) -> bool:
    """Whether this node serves its blocks now and does not mean to leave them."""
    return record.state is State.READY and record.moves_to is None


def _luck(node: NodeId, turn: int) -> float:
    """LUCK_LEAST to 1, by node and turn: equal moves fall to each in turn."""
    digest = blake2b(f"{node}{turn}".encode(), digest_size=4).digest()
    return LUCK_LEAST + (1 - LUCK_LEAST) * int.from_bytes(digest, "big") / 2**32
