"""Sending a seat's notes ahead to a standby, as they are written (decision 0010).

Whoever sends to a span keeps notes of it anyhow; a follower reads them at its own pace. It holds
up nobody: what waits for a slow standby are the notes, which are bounded.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from shardline.core.errors import NodeLost
from shardline.core.ids import short

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shardline.core.ids import NodeId, Seat
    from shardline.swarm.journal import Entry, Journals

__all__ = ["Follower"]

AHEAD_S = 20.0
"""How long one step to a standby may take on its way. Longer rides out a stall of the link,
shorter looks for another standby sooner."""


class Follower:
    """One seat's notes on their way to one standby."""

    def __init__(
        self,
        journals: Journals,
        seat: Seat,
        to: NodeId,
        send: Callable[[NodeId, Entry], Awaitable[None]],
    ) -> None:
        self.to = to
        self.has = 0
        """The standby was sent the steps before this one."""
        self._journals = journals
        self._seat = seat
        self._send = send
        self._news = asyncio.Event()
        self._stopped = False
        self._patience: asyncio.Timeout | None = None

    def more(self) -> None:
        """The seat has a new note."""
        self._news.set()

    def stop(self) -> None:
        """Send nothing more, and end what is being sent."""
        self._stopped = True
        self._news.set()
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> None:
        """Send until stopped; raises JournalLost when it fell too far behind, or NodeLost."""
        while not self._stopped:
            self._news.clear()
            for entry in self._journals.since(self._seat, self.has):
                if not self._stopped:
                    await self._pass_on(entry)
            await self._news.wait()

    async def _pass_on(self, entry: Entry) -> None:
        try:
            async with asyncio.timeout(AHEAD_S) as patience:
                self._patience = patience
                await self._send(self.to, entry)
            self.has = entry.step + 1
        except TimeoutError:
            if not self._stopped:
                reason = f"took no step within {AHEAD_S:.0f} s"
                raise NodeLost(f"standby {short(self.to)} {reason}") from None
        finally:
            self._patience = None
