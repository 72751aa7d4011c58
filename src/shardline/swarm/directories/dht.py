"""The Directory over a Kademlia DHT, for swarms that nobody operates (decisions 0002, 0007).

Weaker than the port's other engines in this: a DHT tells nobody anything, so a watcher asks every
`poll_s`, and a node is gone when its last lease has run out, whether it died or withdrew. Who means
to go should say so in its record (`State.LEAVING`) first.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from shardline.swarm.directories.dht_engine import checked
from shardline.swarm.feed import Feed
from shardline.swarm.records import NodeRecord, sign
from shardline.swarm.view import View

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from shardline.core.clock import Clock
    from shardline.core.ids import NodeId
    from shardline.core.signer import Signer
    from shardline.swarm.directories.dht_engine import DhtEngine, Lease
    from shardline.swarm.directory import Event, Snapshot

__all__ = ["DhtDirectory"]

_RUN = "dht"
"""Leases are a node's, not a process's: all its processes count as one."""


class DhtDirectory:
    """One member's door to the swarm; lives as long as its engine. See Directory."""

    def __init__(self, engine: DhtEngine, signer: Signer, clock: Clock) -> None:
        self._engine = engine
        self._signer = signer
        self._clock = clock
        self._refused: set[NodeId] = set()

    async def publish(self, record: NodeRecord) -> None:
        """See Directory."""
        data = sign(record, self._signer)
        await self._engine.keep(record.node, record.sequence, data)

    async def withdraw(self) -> None:
        """See Directory; others see it when the lease has run out."""
        self._engine.drop()

    async def snapshot(self) -> Snapshot:
        """See Directory."""
        view = View(self._refused)
        leases = await self._engine.leases()
        now_s = self._clock.wall_s()
        for lease in leases:
            view.hear_life(lease.node, _RUN)
            view.hear_opened(lease.node, checked(lease.data), now_s)
        for node, data in self._engine.refused.items():
            view.hear_record(node, data, now_s)
        return view.snapshot(now_s)

    @asynccontextmanager
    async def watch(self) -> AsyncGenerator[AsyncIterator[Event]]:
        """See Directory."""
        feed = Feed(View(self._refused), self._clock, _nothing_to_refill)
        following = asyncio.create_task(self._follow(feed))
        try:
            yield feed
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following

    async def _follow(self, feed: Feed) -> None:
        """Tell the feed what is new in the leases: poll by poll, and whenever else they are asked
        for here, by a snapshot."""
        told: list[Lease] = []
        while True:
            await self._engine.ask()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._engine.settings.poll_s):
                    while True:
                        news = self._engine.news
                        leases = self._engine.heard()
                        _tell(feed, told, leases)
                        told = leases
                        await news.wait()


def _tell(feed: Feed, before: list[Lease], now: list[Lease]) -> None:
    """What changed between these."""
    were_here, were_told = {lease.node for lease in before}, {lease.place for lease in before}
    for node in were_here.difference(lease.node for lease in now):
        feed.hear_death(node, _RUN)
    for lease in now:
        if lease.node not in were_here:
            feed.hear_life(lease.node, _RUN)
        if lease.place not in were_told:
            feed.hear_record(lease.node, lease.data)


async def _nothing_to_refill(_feed: Feed) -> None:
    """A lease tells life and record together: a record that has not come will not come."""
