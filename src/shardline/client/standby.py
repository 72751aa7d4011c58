"""A second seat for each hop, kept warm, so that a death costs one step sent again (decision 0010).

A standby is a seat like any other that only ever hears replays: who sends to the hop sends it the
same steps ahead. It computes and notes them, and is silent until a step comes that is no replay.
All of this goes on beside the session's steps and never holds them up.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from shardline.core.errors import NotCovered, ShardlineError
from shardline.swarm import Follower
from shardline.wire import EVERY_STEP, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from shardline.client.doubts import Doubts
    from shardline.client.seating import Seating
    from shardline.client.surroundings import Surroundings
    from shardline.core.ids import NodeId, Seat
    from shardline.swarm import Entry, Hop, Journals

__all__ = ["Standbys"]


@dataclass(slots=True)
class _Warm:
    """A seat beside the chain."""

    hop: Hop
    after: NodeId | None
    """Where it would send to, as it was told; None is the caller."""
    sender: Hop | None = None
    """Who sends it the steps; None is the caller, once it is fed."""
    fed: bool = False


class Standbys:
    """One session's standbys: taken, fed, and handed over when their hop is lost."""

    def __init__(  # noqa: PLR0913  (ports first, then the session's own parts)
        self,
        around: Surroundings,
        seating: Seating,
        doubts: Doubts,
        *,
        chain: Callable[[], tuple[Hop, ...]],
        journals: Journals,
        home: Seat,
    ) -> None:
        self._around = around
        self._seating = seating
        self._doubts = doubts
        self._chain = chain
        self._journals = journals
        self._home = home
        """Where the caller's own notes are kept."""
        self._warm: dict[int, _Warm] = {}
        """By first block."""
        self._left: list[_Warm] = []
        """Seats that are not wanted any more."""
        self._tired: set[NodeId] = set()
        """Nodes that were lost as standbys, or gave no seat."""
        self._said: set[str] = set()
        self._news = asyncio.Event()
        self._own: Follower | None = None
        """Sends ahead what this caller sends to the first hop."""

    @property
    def hops(self) -> tuple[Hop, ...]:
        """The standbys that are fed, in the chain's order."""
        return tuple(warm.hop for _, warm in sorted(self._warm.items()) if warm.fed)

    def wake(self) -> None:
        """The chain has changed, or a node came."""
        self._news.set()

    def joined(self, node: NodeId) -> None:
        """It came, or came back: it may be asked."""
        self._tired.discard(node)
        self.wake()

    def lost(self, node: NodeId) -> None:
        """Its seats are lost; others are taken if there are any."""
        for start, warm in list(self._warm.items()):
            if warm.hop.node == node:
                self._left.append(self._warm.pop(start))
                self._tired.add(node)
        if self._own is not None and self._own.to == node:
            self._own.stop()
            self._own = None
        self.wake()

    def is_fed_by(self, sender: NodeId, node: NodeId) -> bool:
        """Whether this node is a standby to which that one sends ahead."""
        return any(
            warm.hop.node == node and warm.sender is not None and warm.sender.node == sender
            for warm in self._warm.values()
        )

    def more(self) -> None:
        """The caller has noted another step."""
        if self._own is not None:
            self._own.more()

    def instead_of(self, lost: tuple[Hop, ...]) -> tuple[Hop, ...] | None:
        """The standbys of all these hops, which are the chain's from now on; None without one."""
        found = [self._warm.get(hop.span.start) for hop in lost]
        if any(warm is None or not warm.fed for warm in found):
            return None
        hops = tuple(warm.hop for warm in found if warm is not None)
        return hops if [hop.span for hop in hops] == [hop.span for hop in lost] else None

    async def promote(self, hops: tuple[Hop, ...], after: NodeId | None, step: int) -> int:
        """These are the chain's: tell each where to send, if that is news to it.

        Gives the first step that the caller's own standby, if it is among them, was not sent.
        """
        taken = [self._warm.pop(hop.span.start) for hop in hops]
        follows = [*(hop.node for hop in hops[1:]), after]
        for warm, follower in reversed(list(zip(taken, follows, strict=True))):
            hop = warm.hop
            if warm.after != follower and follower is not None:
                since = step if follower == after else 0
                reroute = self._seating.reroute(hop.span.start, follower, since)
                await self._seating.post(hop.node, reroute)
        own = self._own
        if own is not None and hops[0].span.start == self._home.start:
            self._own = None
            own.stop()
            return min(own.has, step)
        return step

    async def keep(self) -> None:
        """Have a standby for each hop for which there is one, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._news.clear()
                await self._clear_away()
                for hop in self._chain():
                    await self._tend(hop, tasks.create_task)
                await self._news.wait()

    async def _clear_away(self) -> None:
        """Leave the seats that are not wanted; nobody sends to them any more."""
        chain = self._chain()
        spans = {hop.span for hop in chain}
        for start, warm in list(self._warm.items()):
            if warm.hop.span not in spans or warm.hop in chain:
                self._left.append(self._warm.pop(start))
        while self._left:
            warm, chain = self._left.pop(), self._chain()
            if warm.hop not in chain:
                await self._seating.free(warm.hop.node, warm.hop.span.start)
            for sender, hop in pairwise(chain):
                if sender == warm.sender and hop.span.start not in self._warm:
                    await self._send_ahead(sender, hop.node)  # who gets it anyhow: no standby

    async def _tend(self, hop: Hop, spawn: Callable[[Coroutine[None, None, None]], object]) -> None:
        """Take a standby for this hop if it has none, and let it be fed by the hop's sender."""
        if hop not in self._chain():
            return  # it was replaced meanwhile, which wakes us again
        warm = self._warm.get(hop.span.start) or await self._take(hop)
        chain = self._chain()
        if warm is None or hop not in chain:
            return
        at = chain.index(hop)
        after = chain[at + 1].node if at + 1 < len(chain) else None
        if warm.after != after and after is not None:
            warm.after = after
            reroute = self._seating.reroute(hop.span.start, after, EVERY_STEP)
            await self._seating.post(warm.hop.node, reroute)
        sender = chain[at - 1] if at else None
        if warm.fed and warm.sender == sender:
            return
        warm.fed, warm.sender = True, sender
        if sender is not None:
            await self._send_ahead(sender, warm.hop.node)
        else:
            self._own = Follower(self._journals, self._home, warm.hop.node, self._pass_on)
            spawn(self._follow(self._own))

    async def _take(self, hop: Hop) -> _Warm | None:
        chain = self._chain()
        at = chain.index(hop)
        before = chain[at - 1].node if at else None
        after = chain[at + 1].node if at + 1 < len(chain) else None
        avoid = self._tired | self._doubts.avoid.keys() | {hop.node for hop in chain}
        try:
            found = self._around.route(hop.span, avoid, self._seating.need(before, after))
        except NotCovered:
            found = ()
        if len(found) != 1:
            said = f"no other node holds blocks {hop.span} whole, as a standby"
            if said not in self._said:
                self._said.add(said)
                self._around.tell(said)
            return None
        (standby,) = found
        if not await self._seating.take_aside(standby, after):
            self._tired.add(standby.node)
            self.wake()
            return None
        warm = _Warm(standby, after)
        if hop not in self._chain() or standby in self._chain():
            self._left.append(warm)
            self.wake()
            return None
        self._warm[hop.span.start] = warm
        return warm

    async def _send_ahead(self, sender: Hop, to: NodeId) -> None:
        reroute = self._seating.reroute(sender.span.start, to, also=True)
        await self._seating.post(sender.node, reroute)

    async def _pass_on(self, to: NodeId, entry: Entry) -> None:
        step = Step(*self._home, entry.step, self._around.me, [], replay=True)
        await self._around.post.send(to, step, self._seating.readable(entry.segments, to))

    async def _follow(self, follower: Follower) -> None:
        with contextlib.suppress(ShardlineError):
            await follower.run()
        if self._own is follower:
            self._own = None
            self.lost(follower.to)
