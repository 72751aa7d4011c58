"""The Directory port: who is here and what they serve (BSNS, PAPER section 1; decision 0002).

A directory holds one signed record a node and a sign of life beside it. The record is what the node
says; presence is what the engine sees.

What it does not promise:
- that two members see the same at the same time, or that a snapshot holds every live node: a slow
  one may be missing from one snapshot and be back in the next;
- that a node in a snapshot still lives: a frozen one stays for the engine's lease;
- that a watcher hears every step: changes of one node merge while nobody listens, and only the last
  state is certain to arrive. A node that left and came back in between is `Changed`;
- that what a record says is true. It is signed by its node, and not expired: no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from shardline.core.ids import NodeId
    from shardline.swarm.records import Foreign, NodeRecord

__all__ = ["Changed", "Directory", "Event", "Joined", "Left", "Snapshot"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The live nodes at one time: verified, unexpired, one record a node."""

    records: Mapping[NodeId, NodeRecord]
    foreign: Mapping[NodeId, Foreign]
    """Live nodes of another protocol version."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A node is here; also told of every node that was here when the watch began."""

    record: NodeRecord


@dataclass(frozen=True, slots=True)
class Changed:
    """A node's record was replaced."""

    record: NodeRecord


@dataclass(frozen=True, slots=True)
class Left:
    """A node withdrew, died, or let its record expire; `record` is its last."""

    record: NodeRecord


Event = Joined | Changed | Left


class Directory(Protocol):
    """One member's door to the swarm's records. Close it by closing what it was opened on."""

    async def publish(self, record: NodeRecord) -> None:
        """Put this member's record in place of its last one, and show that it lives.

        Records end: publish again before `expires_at_s`. Raises ValueError for another node's
        record, or for one that is out of bounds.
        """
        ...

    async def withdraw(self) -> None:
        """Take the record and the sign of life back; nothing happens if there is none."""
        ...

    async def snapshot(self) -> Snapshot:
        """The live nodes, this member among them if it published; takes at most about 1 s."""
        ...

    def watch(self) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Events from now on, in an endless iterator; its memory is bounded by the live nodes."""
        ...
