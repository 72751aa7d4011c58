"""What one member has heard, and what of it counts. Pure: engines tell it, and hand it the time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from shardline.core.errors import PeerFault
from shardline.core.ids import NodeId, short
from shardline.swarm.directory import Changed, Event, Joined, Left, Snapshot
from shardline.swarm.records import Foreign, NodeRecord, is_current, open_record

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["View"]

NODES_MAX = 4_096
"""Nodes in one view; what more nodes say is not kept."""
RUNS_MAX = 8
"""Processes that may claim one node's life at a time: a restart overlaps with what it replaces."""

_log = logging.getLogger("shardline.swarm")


class View:
    """Records and signs of life by node; `news` says what changed since it was last asked.

    A node is here if a process of it lives and its record is verified and not expired. `refused`
    holds the nodes whose false records are in the log already; one member's views share it.
    """

    def __init__(self, refused: set[NodeId]) -> None:
        self._records: dict[NodeId, NodeRecord] = {}
        self._foreign: dict[NodeId, Foreign] = {}
        self._runs: dict[NodeId, set[str]] = {}
        self._told: dict[NodeId, NodeRecord] = {}
        self._refused = refused

    def hear_life(self, node: NodeId, run: str) -> None:
        """A process of this node lives."""
        if node in self._runs or len(self._runs) < NODES_MAX:
            runs = self._runs.setdefault(node, set())
            if len(runs) < RUNS_MAX:
                runs.add(run)

    def hear_death(self, node: NodeId, run: str) -> None:
        """A process of this node is gone; with the last one its record goes too."""
        runs = self._runs.get(node, set())
        runs.discard(run)
        if not runs:
            for known in (self._runs, self._records, self._foreign):
                known.pop(node, None)
            self._refused.discard(node)

    def hear_record(self, node: NodeId, data: bytes, now_s: float) -> None:
        """These bytes stand where this node's record belongs; what is wrong with them is logged.

        An older record than the known one, and an expired one, are passed over.
        """
        try:
            self.hear_opened(node, open_record(data), now_s)
        except PeerFault as error:
            self._refuse(node, str(error))

    def hear_opened(self, node: NodeId, record: NodeRecord | Foreign, now_s: float) -> None:
        """As `hear_record`, for what `open_record` has checked: many views may share one check."""
        if record.node != node:
            self._refuse(node, f"it is a record of {record.node}")
            return
        known = self._foreign if isinstance(record, Foreign) else self._records
        if node not in known and len(known) >= NODES_MAX:
            self._forget_expired(now_s)
            if len(known) >= NODES_MAX:
                return
        if isinstance(record, Foreign):
            self._foreign[node] = record
            return
        last = self._records.get(node)
        if is_current(record, now_s) and (last is None or record.sequence > last.sequence):
            self._records[node] = record
            self._foreign.pop(node, None)

    def live(self, node: NodeId, now_s: float) -> NodeRecord | None:
        """This node's record if the node is here."""
        record = self._records.get(node)
        if record is None or node not in self._runs or not is_current(record, now_s):
            return None
        return record

    def unheard(self) -> bool:
        """Whether some process lives whose record has not come yet."""
        return any(node not in self._records and node not in self._foreign for node in self._runs)

    def knows(self, node: NodeId) -> bool:
        """Whether there may be news of this node; the nodes of which there may be are bounded."""
        return node in self._runs or node in self._told

    def snapshot(self, now_s: float) -> Snapshot:
        """All that are here."""
        here = {node: record for node in self._runs if (record := self.live(node, now_s))}
        foreign = {
            node: other
            for node, other in self._foreign.items()
            if node in self._runs and node not in here
        }
        return Snapshot(here, foreign)

    def news(self, node: NodeId, now_s: float) -> Event | None:
        """What a watcher has to hear of this node now, told once."""
        record, told = self.live(node, now_s), self._told.get(node)
        if record is None:
            return Left(self._told.pop(node)) if told else None
        self._told[node] = record
        if told is None:
            return Joined(record)
        return Changed(record) if record.sequence != told.sequence else None

    def expired(self, now_s: float) -> Iterable[NodeId]:
        """Nodes that a watcher believes to be here and whose record has ended."""
        return [node for node, record in self._told.items() if not is_current(record, now_s)]

    def _refuse(self, node: NodeId, why: str) -> None:
        if node not in self._refused and len(self._refused) < NODES_MAX:
            self._refused.add(node)
            _log.warning("refused what stands for node %s: %s", short(node), why)

    def _forget_expired(self, now_s: float) -> None:
        ended = [node for node, record in self._records.items() if not is_current(record, now_s)]
        for node in ended:
            del self._records[node]
        for node in [node for node in self._foreign if node not in self._runs]:
            del self._foreign[node]
