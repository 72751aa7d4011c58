"""Callers who take all the room that a node has, and never write a word.

They are two, because a node gives no caller more than half while others are there.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from anyio.from_thread import start_blocking_portal

from shardline.core.errors import NodeLost
from shardline.core.ids import new_session_id
from shardline.swarm import Identity, membership
from shardline.wire import Close, Failed, Open, Opened

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Sequence

    from anyio.from_thread import BlockingPortal

    from shardline.core.ids import NodeId, SessionId
    from shardline.core.segments import Segment
    from shardline.swarm import Invite, Member, NodeRecord
    from shardline.wire import Message

__all__ = ["Glutton", "glutton"]

ANSWER_S: Final = 10.0
GUESTS: Final = 2


class Glutton:
    """Fills nodes by name, and gives everything back; for plain code."""

    def __init__(self, portal: BlockingPortal, guests: Sequence[_Guest]) -> None:
        self._portal = portal
        self._guests = guests

    def fill(self, name: str) -> None:
        """Reserve a node's cache down to the last token; raises NodeLost if it is not there."""
        for guest in self._guests:
            self._portal.call(guest.fill, name)

    def leave(self) -> None:
        """Give all back."""
        for guest in self._guests:
            self._portal.call(guest.leave)


class _Guest:
    """The glutton's place in the swarm."""

    def __init__(self) -> None:
        self.member: Member
        self._answers: asyncio.Queue[Opened | Failed] = asyncio.Queue()
        self._seats: list[tuple[NodeId, SessionId]] = []

    def hear(self, _peer: NodeId, message: Message, _segments: Sequence[Segment]) -> None:
        """Keep what nodes answer."""
        if isinstance(message, Opened | Failed):
            self._answers.put_nowait(message)

    async def fill(self, name: str) -> None:
        """Ask for all, then for half as much each time that it is too much."""
        snapshot = await self.member.directory.snapshot()
        record = next((one for one in snapshot.records.values() if one.name == name), None)
        if record is None:
            raise NodeLost(f"node {name} is not here to be filled")
        tokens = record.cache_tokens_total
        while tokens:
            if not await self._take(record, tokens):
                tokens //= 2

    async def _take(self, record: NodeRecord, tokens: int) -> bool:
        session = new_session_id()
        opening = Open(
            session=session,
            caller=self.member.node_id,
            model=record.fingerprint,
            start=record.start,
            stop=record.stop,
            next=None,
            tokens=tokens,
            batch=1,
        )
        async with asyncio.timeout(ANSWER_S):
            await self.member.switchboard.send(record.node, opening)
            while (answer := await self._answers.get()).session != session:
                pass
        if isinstance(answer, Failed):
            return False
        self._seats.append((record.node, session))
        return True

    async def leave(self) -> None:
        """Close every seat at the nodes that are still there."""
        seats, self._seats = self._seats, []
        for node, session in seats:
            with contextlib.suppress(NodeLost, TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    await self.member.switchboard.send(node, Close(session))


@contextlib.contextmanager
def glutton(invite: Invite) -> Generator[Glutton]:
    """Members of this swarm who can fill its nodes."""
    with contextlib.ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal("asyncio", name="glutton"))
        guests = [
            stack.enter_context(portal.wrap_async_context_manager(_guest(invite)))
            for _ in range(GUESTS)
        ]
        yield Glutton(portal, guests)


@contextlib.asynccontextmanager
async def _guest(invite: Invite) -> AsyncGenerator[_Guest]:
    guest = _Guest()
    async with membership(
        invite, Identity.ephemeral(), listen=None, on_message=guest.hear
    ) as guest.member:
        yield guest
