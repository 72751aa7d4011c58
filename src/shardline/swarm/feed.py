"""A watcher's iterator over a View: it sleeps until a node changed, and tells what is new of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from shardline.core.clock import Clock
    from shardline.core.ids import NodeId
    from shardline.swarm.directory import Event
    from shardline.swarm.view import View

__all__ = ["Feed"]

TICK_S = 1.0
"""How often expiry is looked at and missing records are asked for again."""


class Feed:
    """What waits is a set of nodes, not of events: bounded however slow the watcher is.

    Everything here runs on one event loop. `refill` is called each tick while a node lives whose
    record has not come.
    """

    def __init__(self, view: View, clock: Clock, refill: Callable[[Feed], Awaitable[None]]) -> None:
        self._view = view
        self._clock = clock
        self._refill = refill
        self._touched: dict[NodeId, None] = {}
        self._woken = asyncio.Event()

    def hear_life(self, node: NodeId, run: str) -> None:
        """See View."""
        self._view.hear_life(node, run)
        self._touch(node)

    def hear_death(self, node: NodeId, run: str) -> None:
        """See View."""
        self._view.hear_death(node, run)
        self._touch(node)

    def hear_record(self, node: NodeId, data: bytes) -> None:
        """See View."""
        self._view.hear_record(node, data, self._clock.wall_s())
        self._touch(node)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while True:
            while self._touched:
                node = next(iter(self._touched))
                del self._touched[node]
                event = self._view.news(node, self._clock.wall_s())
                if event is not None:
                    return event
            self._woken.clear()
            try:
                async with asyncio.timeout(TICK_S):
                    await self._woken.wait()
            except TimeoutError:
                await self._tick()

    async def _tick(self) -> None:
        for node in self._view.expired(self._clock.wall_s()):
            self._touch(node)
        if self._view.unheard():
            await self._refill(self)

    def _touch(self, node: NodeId) -> None:
        if self._view.knows(node):
            self._touched[node] = None
            self._woken.set()
