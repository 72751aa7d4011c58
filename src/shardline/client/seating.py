"""Taking seats for one session, leaving them, and sending to the nodes that gave them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import msgspec

from shardline.client.prefixes import along
from shardline.client.surroundings import Need
from shardline.core.errors import BadInput, CacheFull, NodeLost, NotCovered, ShardlineError
from shardline.core.ids import short
from shardline.wire import Close, Open, Reroute

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from shardline.client.doubts import Doubts
    from shardline.client.surroundings import Surroundings, Terms
    from shardline.codec import Encoder
    from shardline.core.ids import NodeId, SessionId
    from shardline.core.segments import Segment
    from shardline.swarm import Hop
    from shardline.wire import Message

__all__ = ["CLOSE_S", "OPEN_S", "Seating"]

OPEN_S = 10.0
"""How long a node may take to give a seat, if another can take its place; it may have to be dialled
first."""
BUSY_S = 120.0
"""The same if no other can, while it lives: a seat is given between two rounds of its engine, and
one round may be somebody's long prompt."""
SIGN_S = 2.0
"""How long it may take for a sign of life."""
CLOSE_S = 2.0


class Seating:
    """One session's seats: asked for, given, refused, left."""

    def __init__(
        self,
        around: Surroundings,
        session: SessionId,
        fingerprint: str,
        doubts: Doubts,
        terms: Terms,
    ) -> None:
        self.rows = self.tokens = 0
        """What each seat is for: this many sequences of at most so many tokens."""
        self._around = around
        self._session = session
        self._fingerprint = fingerprint
        self._doubts = doubts
        self._terms = terms
        self._news = asyncio.Event()
        self._unopened: set[tuple[NodeId, int]] = set()
        self._aside: dict[tuple[NodeId, int], asyncio.Future[bool]] = {}
        """Seats that are asked for beside the chain, each with its answer."""
        self.pages: dict[tuple[NodeId, int], int] = {}
        """Of the prefix, those that nodes said they hold when they gave a seat."""
        self._asked: set[NodeId] = set()
        """Nodes that may hold a seat of ours."""

    def need(self, before: NodeId | None, after: NodeId | None) -> Need:
        """What a chain of seats is for, between these two nodes."""
        return Need(self.rows * self.tokens, self._session, before, after)

    def check_room(self, rows: int, tokens: int) -> None:
        """Raise CacheFull unless the seats are for so many sequences, and for this many tokens."""
        if rows != self.rows or tokens > self.tokens:
            asked, room = f"{rows} x {tokens}", f"{self.rows} x {self.tokens}"
            raise CacheFull(f"a step to {asked} tokens, but {room} were reserved")

    def encoder(self, to: NodeId) -> Encoder:
        """What writes hidden states for this node."""
        return self._terms.encoder(self._around.reads(to))

    def readable(self, segments: Sequence[Segment], to: NodeId) -> Sequence[Segment]:
        """What was written, maybe for another, as this node can read it, with the same values."""
        return self._terms.readable(segments, self._around.reads(to))

    def reroute(self, start: int, to: NodeId, since: int = 0, *, also: bool = False) -> Reroute:
        """What tells the node at `start` to send to this one."""
        return Reroute(self._session, start, to, since, also, self._wire_to(to))

    def opened(self, node: NodeId, start: int, pages: int) -> None:
        """A node gave a seat, and holds so many pages of the prefix there."""
        if (node, start) in self._unopened:
            self.pages[node, start] = pages
        self._unopened.discard((node, start))
        answer = self._aside.get((node, start))
        if answer is not None and not answer.done():
            answer.set_result(True)

    def pages_at(self, hops: Sequence[Hop], asked: int) -> int:
        """How many of the prefix's pages all of these hold."""
        return min(asked, *(self.pages.get((hop.node, hop.span.start), 0) for hop in hops))

    def refused(self, node: NodeId, error: ShardlineError) -> bool:
        """A node could not open a seat; whether one was asked of it."""
        for (asked, _), answer in self._aside.items():
            if asked == node and not answer.done():
                answer.set_result(False)
                return True
        if any(asked == node for asked, _ in self._unopened):
            self._doubts.failed(node, error)
            return True
        return False

    def wake(self) -> None:
        """Something was heard."""
        self._news.set()

    async def rest(self, wait_s: float) -> bool:
        """As `woken`, for who has used up what was heard so far."""
        self._news.clear()
        return await self.woken(wait_s)

    async def woken(self, wait_s: float) -> bool:
        """Whether something was heard within this time; the event loop gets its turn in any case.

        Else who fails at once, and tries again, would keep the loop from noticing what is new.
        """
        if self._news.is_set():
            await asyncio.sleep(0)
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
        woken = self._news.is_set()
        self._news.clear()
        return woken

    async def take(
        self, hops: tuple[Hop, ...], after: NodeId | None, prefix: Sequence[bytes] = ()
    ) -> bool:
        """Take a seat at each of these nodes; False if one did not give it and is to be avoided.

        Then the others' seats are left, so that they are free for the next try. `prefix` names the
        session's first pages, for a chain from the first block on.
        """
        self._unopened = {(hop.node, hop.span.start) for hop in hops}
        asked = {hop.node for hop in hops}
        self._doubts.asked(*asked)
        for at, hop in enumerate(hops):
            fresh = at + 1 < len(hops)
            message = self._open(hop, hops[at + 1].node if fresh else after, fresh=fresh)
            if prefix:
                names = along(prefix, [earlier.node for earlier in hops[:at]])
                message = msgspec.structs.replace(message, prefix=names)
            await self.post(hop.node, message)
        began_s = asyncio.get_running_loop().time()
        while self._unopened and not self._doubts.is_gone(*asked):
            waited_s = asyncio.get_running_loop().time() - began_s
            if waited_s < OPEN_S:
                await self.woken(OPEN_S - waited_s)
            else:
                await self._late(hops, waited_s)
        given = not self._unopened
        self._unopened = set()
        if not given:
            live = [hop for hop in hops if not self._doubts.is_gone(hop.node)]
            await asyncio.gather(*(self.free(hop.node, hop.span.start) for hop in live))
        return given

    async def _late(self, hops: tuple[Hop, ...], waited_s: float) -> None:
        """Some gave no seat so far: wait on for those who live and hold what nobody else does."""
        late = [hop for hop in hops if (hop.node, hop.span.start) in self._unopened]
        for hop in late:
            if waited_s >= BUSY_S or self.can_do_without(hop):
                text = f"node {short(hop.node)} gave no seat within {waited_s:.0f} s"
                self._doubts.failed(hop.node, NodeLost(text))
        if not self._doubts.is_gone(*(hop.node for hop in hops)):
            await self.probe({hop.node for hop in late}, SIGN_S)
            await self.woken(SIGN_S)

    def can_do_without(self, hop: Hop) -> bool:
        """Whether others could take its place."""
        try:
            avoid = {*self._doubts.refused, *self._doubts.suspected, hop.node}
            self._around.route(hop.span, avoid, self.need(None, None))
        except NotCovered:
            return False
        return True

    async def take_aside(self, hop: Hop, after: NodeId | None) -> bool:
        """Take one seat beside the chain; whether it was given. Nothing is held against a node."""
        key = hop.node, hop.span.start
        answer = self._aside[key] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(OPEN_S):
                await self._around.post.send(hop.node, self._open(hop, after, fresh=False))
                return await answer
        except (ShardlineError, TimeoutError):
            return False
        finally:
            del self._aside[key]

    async def probe(self, nodes: Collection[NodeId], wait_s: float) -> None:
        """Ask nodes for a sign of life; those that give none are gone."""
        alive = await asyncio.gather(*(self._around.alive(node, wait_s) for node in nodes))
        for node, lives in zip(nodes, alive, strict=True):
            if not lives:
                lost = NodeLost(f"node {short(node)} gave no sign of life within {wait_s:.0f} s")
                self._doubts.failed(node, lost)

    async def free(self, node: NodeId, start: int | None) -> None:
        """Leave a seat (None: all of them), if the node can be told."""
        with contextlib.suppress(ShardlineError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._around.post.send(node, Close(self._session, start))

    async def leave(self) -> None:
        """Leave every seat."""
        await asyncio.gather(*(self.free(node, None) for node in self._asked))

    async def post(self, node: NodeId, message: Message, segments: Sequence[Segment] = ()) -> None:
        """Send to a node; one that cannot be reached is gone, and the chain will be mended."""
        try:
            if self._around.post.send_now(node, message, segments):
                return
            async with asyncio.timeout(OPEN_S):
                await self._around.post.send(node, message, segments)
        except (ShardlineError, TimeoutError) as error:
            reason = str(error) or f"no way through within {OPEN_S:.0f} s"
            lost = NodeLost(f"node {short(node)} cannot be reached: {reason}")
            self._doubts.failed(node, error if isinstance(error, BadInput) else lost)
            self.wake()

    def _open(self, hop: Hop, after: NodeId | None, *, fresh: bool) -> Open:
        self._asked.add(hop.node)
        return Open(
            session=self._session,
            caller=self._around.me,
            model=self._fingerprint,
            start=hop.span.start,
            stop=hop.span.stop,
            next=after,
            tokens=self.tokens,
            batch=self.rows,
            fresh=fresh,
            wire=self._wire_to(after),
            block=self._terms.block,
        )

    def _wire_to(self, node: NodeId | None) -> str:
        """The coarsest codec for what goes to this node; we (None) read what we allow."""
        return self._terms.wire if node is None else self._terms.to(self._around.reads(node))
