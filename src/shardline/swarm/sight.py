"""One model's nodes with all that is known of their links: what links say is judged on this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from shardline.swarm.placement import rate_of, usual_rate
from shardline.swarm.records import State
from shardline.swarm.ways import Ways, ways_of
from shardline.swarm.worth import Worth

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shardline.core.ids import NodeId
    from shardline.swarm.capacity import Ints
    from shardline.swarm.records import NodeRecord

__all__ = ["Sight", "sight_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """Nodes by id, where they are or are about to move to, and what that is worth."""

    records: tuple[NodeRecord, ...]
    ways: Ways
    worth: Worth
    starts: Ints
    stops: Ints

    def is_fixed(self, row: int) -> bool:
        """Whether this node stays for good: a person placed it, or it cannot read other blocks."""
        record = self.records[row]
        return record.pinned or (record.state is State.READY and not record.placed_at_s)

    def row(self, node: NodeId) -> int:
        """This node's place in all arrays."""
        return self.ways.nodes.index(node)

    def value_s(self, moves: Mapping[NodeId, int] | None = None) -> float:
        """`Worth.value_s`, once these nodes begin at these blocks."""
        starts = self.starts.copy()
        for node, start in (moves or {}).items():
            starts[self.row(node)] = start
        return self.worth.value_s(starts, starts + self.stops - self.starts)


def sight_of(records: Sequence[NodeRecord], step_bytes: int) -> Sight | None:
    """Of one model's nodes; None where links tell nothing (`ways_of`)."""
    ours = tuple(sorted(records, key=lambda record: record.node))
    ways = ways_of(ours, step_bytes=step_bytes)
    if ways is None:
        return None
    usual = usual_rate(ours)
    held = [record.moves_to or record.span for record in ours]
    worth = Worth(ways, np.array([rate_of(record, usual) for record in ours]), ours[0].blocks)
    return Sight(
        ours,
        ways,
        worth,
        starts=np.array([span.start for span in held]),
        stops=np.array([span.stop for span in held]),
    )
