"""The Directory's twin in memory: one board in one process, one door to it for each member."""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from shardline.swarm.feed import Feed
from shardline.swarm.records import RECORD_BYTES_MAX, NodeRecord, sign
from shardline.swarm.view import View

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from shardline.core.clock import Clock
    from shardline.core.ids import NodeId
    from shardline.core.signer import Signer
    from shardline.swarm.directory import Event, Snapshot

__all__ = ["MemoryBoard", "MemoryDirectory"]


class MemoryBoard:
    """What hangs on the wall: by process, a node's name and its record's bytes."""

    def __init__(self) -> None:
        self._cards: dict[str, tuple[NodeId, bytes]] = {}
        self._feeds: set[Feed] = set()

    def pin(self, run: str, node: NodeId, data: bytes) -> None:
        """Hang a record, or replace this process's last one. Nothing is checked: readers do."""
        self._cards[run] = (node, data)
        for feed in self._feeds:
            self._tell(feed, run)

    def unpin(self, run: str) -> None:
        """Take this process's record down, as its death does."""
        card = self._cards.pop(run, None)
        if card is not None:
            for feed in self._feeds:
                feed.hear_death(card[0], run)

    def kill(self, node: NodeId) -> None:
        """All processes of this node die without a word."""
        for run in [run for run, card in self._cards.items() if card[0] == node]:
            self.unpin(run)

    def cards(self) -> list[tuple[str, NodeId, bytes]]:
        """Process, node and record of all that hangs here; records too large are left out."""
        return [
            (run, node, data)
            for run, (node, data) in self._cards.items()
            if len(data) <= RECORD_BYTES_MAX
        ]

    def follow(self, feed: Feed) -> None:
        """Tell this feed what is here and what will change."""
        self._feeds.add(feed)
        for run in self._cards:
            self._tell(feed, run)

    def unfollow(self, feed: Feed) -> None:
        """Tell this feed no more."""
        self._feeds.discard(feed)

    def _tell(self, feed: Feed, run: str) -> None:
        node, data = self._cards[run]
        feed.hear_life(node, run)
        feed.hear_record(node, data)


class MemoryDirectory:
    """One member's door to a board; see Directory."""

    def __init__(self, board: MemoryBoard, signer: Signer, clock: Clock) -> None:
        self._board = board
        self._signer = signer
        self._clock = clock
        self._refused: set[NodeId] = set()
        self._run = secrets.token_hex(4)

    async def publish(self, record: NodeRecord) -> None:
        """See Directory."""
        self._board.pin(self._run, self._signer.node_id, sign(record, self._signer))

    async def withdraw(self) -> None:
        """See Directory."""
        self._board.unpin(self._run)

    async def snapshot(self) -> Snapshot:
        """See Directory."""
        view = View(self._refused)
        now_s = self._clock.wall_s()
        for run, node, data in self._board.cards():
            view.hear_life(node, run)
            view.hear_record(node, data, now_s)
        return view.snapshot(now_s)

    @asynccontextmanager
    async def watch(self) -> AsyncGenerator[AsyncIterator[Event]]:
        """See Directory."""
        feed = Feed(View(self._refused), self._clock, _nothing_to_refill)
        self._board.follow(feed)
        try:
            yield feed
        finally:
            self._board.unfollow(feed)


async def _nothing_to_refill(_feed: Feed) -> None:
    """A board tells life and record together: a record that has not come will not come."""
