"""What a node says of itself: one record, published anew when something changed, and by heartbeat.

Heartbeat and life of a record follow the number of nodes that are seen, and a heartbeat measures
the way to a few of them, in turn: what a member hears and sends stays bounded in any swarm.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import msgspec

from shardline.core.errors import ShardlineError
from shardline.node.links import Links
from shardline.swarm import heartbeat_s, record_life_s, renew

if TYPE_CHECKING:
    from shardline.core.clock import Clock
    from shardline.core.ids import NodeId
    from shardline.node.holding import Holding
    from shardline.node.worker import Worker
    from shardline.swarm import Member, NodeRecord

__all__ = ["Teller"]

PING_S = 5.0
"""How long a node may take to answer before the way to it counts as unknown."""


class Teller:
    """A node's record and its voice in the directory."""

    def __init__(self, member: Member, record: NodeRecord, holding: Holding, clock: Clock) -> None:
        self.record = record
        self.links = Links(record.node)
        self._member = member
        self._holding = holding
        self._clock = clock
        self._nodes = 1
        self._speaking = asyncio.Lock()

    async def records(self) -> list[NodeRecord]:
        """All that the directory shows now, this node's own among them."""
        records = (await self._member.directory.snapshot()).records
        self._nodes = max(1, len(records))
        return list(records.values())

    async def publish(self, **changes: object) -> None:
        """Put the renewed record into the directory."""
        async with self._speaking:  # so that an older one never overtakes
            changed = msgspec.structs.replace(
                self.record,
                addresses=self._member.place.addresses,
                through=self._member.place.through(),
                **changes,
                **self._holding.fullness(),
            )
            life_s = record_life_s(self._nodes)
            self.record = renew(changed, now_s=self._clock.wall_s(), life_s=life_s)
            await self._member.directory.publish(self.record)

    async def stay(self, worker: Worker, stop: asyncio.Event) -> None:
        """Renew the record with how full and how fast this node is, until told to stop."""
        since_s, before_s = self._clock.monotonic_s(), 0.0
        while not stop.is_set():
            await self.measure()
            now_s, busy_s = self._clock.monotonic_s(), worker.tally.compute_s
            share = (busy_s - before_s) / max(now_s - since_s, 1e-3)
            since_s, before_s = now_s, busy_s
            await self.publish(
                load=min(max(share, 0.0), 1.0),
                queue=worker.queue,
                block_steps_per_s=worker.tally.block_steps_per_s,
                **self.links.told(),
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(heartbeat_s(self._nodes)):
                    await stop.wait()
            await worker.expire()

    async def measure(self) -> None:
        """Ping those whose turn it is."""
        others = [record.node for record in await self.records() if record.node != self.record.node]
        chosen = self.links.turn(others)
        times = await asyncio.gather(*(self._ping(node) for node in chosen))
        for node, rtt_ms in zip(chosen, times, strict=True):
            self.links.add(node, rtt_ms)

    async def _ping(self, node: NodeId) -> float | None:
        try:
            async with asyncio.timeout(PING_S):
                return await self._member.switchboard.ping(node)
        except (TimeoutError, ShardlineError):
            return None
