"""One caller's session over a chain of nodes: it survives the death of any of them.

A step's journey: it is noted here and sent to the first node; the hidden state goes from node to
node and from the last one straight back; the caller is not in the middle. Each sender notes what
it sends. When nodes go away, the caller takes seats for the lost blocks on others and tells the
sender before the gap, which sends its notes there: the new nodes fill their caches with the very
steps that the old ones had, in their order, so the tokens stay the same to the bit. If that sender
is gone too, the gap reaches further up, at most to here. With standbys the seats are there already.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

from shardline.client.doubts import Doubts
from shardline.client.seating import Seating
from shardline.client.standby import Standbys
from shardline.client.surroundings import EXACT, ChainBroken, Mended
from shardline.core.errors import (
    BadInput,
    NodeLost,
    NotCovered,
    PeerFault,
    ShardlineError,
    StepTimeout,
    remote_error,
)
from shardline.core.ids import Seat, new_session_id, short
from shardline.swarm import Journals, first_gap, mend
from shardline.wire import COUNT_MAX, Failed, Opened, Result, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shardline.client.surroundings import Surroundings, Terms
    from shardline.codec import Encoder
    from shardline.core.ids import NodeId, SessionId
    from shardline.core.segments import Segment
    from shardline.core.spans import Span
    from shardline.swarm import Gap, Hop
    from shardline.wire import Message, Spent

__all__ = ["RemoteSession"]

T = TypeVar("T")

PROBE_S = 2.0
"""How often the chain's nodes are asked for a sign of life while a step is under way, and how long
each may take for it. Shorter finds frozen nodes sooner and asks busy ones oftener."""
STALL_S = 30.0
"""How long a step may take, though all of the chain's nodes live, until one of them is replaced on
suspicion; then another, after twice the time. Shorter finds a silent one sooner, and suspects more
that only have much to do."""
STALL_TOKEN_S = 0.5
"""What each token of a step adds to it: a long prompt is minutes' work."""
STEP_S = 600.0
"""How long a step may take while all of the chain's nodes live and nothing is mended."""
PATIENCE_S = 120.0
"""How long a session waits for somebody who holds its blocks. Longer rides out a restart; shorter
tells the caller sooner."""
PAUSE_S = 0.1
"""Between two tries to mend one gap, doubling."""
MENDS_MAX = 32
"""Mends during one step before the session gives up."""
BESIDE_MAX = 32
"""Tokens of other sessions that a node may compute together with a step whose time is judged."""
JOURNAL_BYTES = 2**29
"""What a caller keeps to send again: the inputs of the first block, for all tokens so far. More
than a node lets wait could not be sent again in one go."""


class RemoteSession:
    """A batch's cache on every node of one chain, and with `standby` on a second node for each."""

    def __init__(
        self,
        around: Surroundings,
        fingerprint: str,
        span: Span,
        *,
        standby: bool = False,
        terms: Terms = EXACT,
    ) -> None:
        self.id: SessionId = new_session_id()
        self.chain: tuple[Hop, ...] = ()
        self._around = around
        self._span = span
        self._filled = self._step = self._attach = self._slowest_us = 0
        self._journals = Journals(JOURNAL_BYTES)
        self._home = Seat(self.id, span.start)
        """Where our own notes are kept: what was sent to the first block."""
        self._result: tuple[Sequence[Segment], list[Spent]] | None = None
        self._doubts = Doubts()
        self._seating = Seating(around, self.id, fingerprint, self._doubts, terms)
        self._standbys = Standbys(
            around,
            self._seating,
            self._doubts,
            chain=lambda: self.chain,
            journals=self._journals,
            home=self._home,
        )
        self._keeps_standbys = standby
        self._keeper: asyncio.Task[None] | None = None

    @property
    def standbys(self) -> tuple[Hop, ...]:
        """The seats that are kept warm beside the chain now."""
        return self._standbys.hops

    @property
    def encoder(self) -> Encoder:
        """What writes hidden states for the first node of the chain."""
        return self._seating.encoder(self.chain[0].node)

    async def open(self, *, rows: int, tokens: int, prefix: Sequence[bytes] = ()) -> int:
        """Take seats for `rows` sequences of at most `tokens` tokens on a chain for all blocks.

        `prefix` names the first pages of these tokens, for nodes that keep them or shall; gives how
        many of them all hold, so that the session may `begin` with them.
        Raises NotCovered at once if no chain can be had, or ChainBroken with the last refusal.
        """
        self._seating.rows, self._seating.tokens = rows, tokens
        while True:
            avoid = self._doubts.avoid
            try:
                chain = self._around.route(self._span, avoid, self._seating.need(None, None))
            except NotCovered:
                if not avoid:
                    raise
                node, cause = next(reversed(avoid.items()))
                raise (cause if isinstance(cause, BadInput) else ChainBroken(node, cause)) from None
            if await self._seating.take(chain, None, prefix):
                break
        self.chain = chain
        if not self._keeps_standbys:
            return self._seating.pages_at(chain, len(prefix))
        self._keeper = asyncio.create_task(self._standbys.keep())
        return 0  # they are filled from the chain's notes, which would lack it

    def begin(self, segments: Sequence[Segment], pages: int, tokens: int) -> None:
        """Let `pages` that all nodes hold stand for step 0, which is sent to new seats only."""
        self._journals.add(self._home, 0, [bytes(segment) for segment in segments])
        self._step, self._filled, self._attach = 1, tokens, pages

    async def step(
        self,
        segments: Sequence[Segment],
        read: Callable[[Sequence[Segment]], T],
        *,
        rows: int,
        tokens: int,
    ) -> tuple[T, list[Spent]]:
        """One step through the whole chain: what was read, and what each node spent on it.

        The step holds `tokens` of each of `rows` sequences; `read` makes sense of what comes back,
        and raises PeerFault if it makes none. Nodes that fail meanwhile are replaced. Raises
        CacheFull beyond what the session was opened for, ChainBroken when nodes could not be
        replaced within PATIENCE_S, StepTimeout.
        """
        self._seating.check_room(rows, self._filled + tokens)
        self._look_around()
        if self._broken():
            await self._mend_all()
        kept = [bytes(segment) for segment in segments]
        self._journals.add(self._home, self._step, kept)
        self._result = None
        await self._send_step(self._step, kept, replay=False)
        self._standbys.more()
        out, spent = await self._finish(read, tokens)
        self._step += 1
        self._filled += tokens
        self._doubts.step_done()
        if tokens == 1 and len(spent) == len(self.chain):
            self._slowest_us = min(max(node.compute_us for node in spent), COUNT_MAX)
            for hop, node in zip(self.chain, spent, strict=True):
                if node.beside > BESIDE_MAX:
                    continue  # it shared its time with much else: that makes no straggler
                self._around.judge(hop.node, node.compute_us / 1e6 / len(hop.span))
        return out, spent

    async def close(self) -> None:
        """Free the cache on every node that can still be told."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        self._journals.drop(self._home)
        await self._seating.leave()

    def on_message(self, peer: NodeId, message: Message, segments: Sequence[Segment]) -> None:
        """What nodes answer; what comes late or from elsewhere is passed over."""
        match message:
            case Opened(start=start, pages=pages):
                self._seating.opened(peer, start, pages)
            case Result(step=step) if step == self._step and peer == self.chain[-1].node:
                self._result = (segments, message.spent)
            case Failed():
                self._failed(peer, message)
            case _:
                return
        self._seating.wake()

    def on_gone(self, node: NodeId, cause: ShardlineError) -> None:
        """A node left the swarm, or the link to it broke; its seats are lost to us."""
        self._doubts.gone(node, cause)
        self._standbys.lost(node)
        self._seating.wake()

    def on_joined(self, node: NodeId) -> None:
        """A node came, or came back: it may be asked again."""
        self._doubts.joined(node)
        self._standbys.joined(node)
        self._seating.wake()

    def _failed(self, peer: NodeId, message: Failed) -> None:
        error = remote_error(message.kind, message.text)
        if message.step is None and self._seating.refused(peer, error):
            return
        if message.about is not None and self._standbys.is_fed_by(peer, message.about):
            self._standbys.lost(message.about)
            return
        if message.about in {None, peer}:
            self._standbys.lost(peer)
        self._doubts.answered(peer, error, message.about, self.chain)

    def _look_around(self) -> None:
        """Between two steps: leave those who are leaving, or became slow."""
        for node, reason in self._around.leaving(self.chain, self._doubts.avoid).items():
            self._doubts.gone(node, NodeLost(reason))
        for node in self._around.leaving(self._standbys.hops, self._doubts.avoid):
            self._standbys.lost(node)

    def _broken(self) -> bool:
        """Whether seats of the chain are lost, by all that was heard."""
        return self._doubts.look(self.chain)

    async def _finish(
        self, read: Callable[[Sequence[Segment]], T], tokens: int
    ) -> tuple[T, list[Spent]]:
        """Wait for the step's result, and mend the chain as often as it breaks meanwhile."""
        loop = asyncio.get_running_loop()
        mends, stalls, patience_s = 0, 0, STALL_S + STALL_TOKEN_S * tokens
        since_s = stalled_s = loop.time()
        while True:
            if self._result is not None:
                (out, spent), self._result = self._result, None
                try:
                    return read(out), spent
                except PeerFault as error:
                    self._doubts.complained(self.chain[-1].node, error, self.chain)
            if self._broken():
                mends += 1
                if (stuck := self._doubts.stuck()) is not None:
                    raise ChainBroken(*stuck)
                if mends > MENDS_MAX:
                    start, cause = next(iter(self._doubts.lost.items()))
                    raise ChainBroken(self._holder(start).node, cause)
                await self._mend_all()
                since_s = stalled_s = loop.time()
            elif loop.time() - since_s > STEP_S:
                raise StepTimeout(f"step {self._step} was not answered within {STEP_S:.0f} s")
            elif loop.time() - stalled_s > patience_s:
                self._suspect_one(stalls, patience_s)
                stalls, patience_s, stalled_s = stalls + 1, 2 * patience_s, loop.time()
            elif not await self._seating.woken(PROBE_S):
                await self._seating.probe({hop.node for hop in self.chain}, PROBE_S)

    def _suspect_one(self, turn: int, waited_s: float) -> None:
        """All live and yet nothing comes: replace one, the last first, if it can be replaced."""
        hop = self.chain[-1 - turn % len(self.chain)]
        if self._seating.can_do_without(hop):
            text = f"nothing came within {waited_s:.0f} s, and node {short(hop.node)} may be why"
            self._doubts.failed(hop.node, StepTimeout(text))

    def _holder(self, start: int) -> Hop:
        return next(hop for hop in self.chain if hop.span.start == start)

    async def _mend_all(self) -> None:
        """Fill every gap of the chain, from the caller's side on."""
        loop = asyncio.get_running_loop()
        deadline_s, pause_s = loop.time() + PATIENCE_S, PAUSE_S
        while self._broken():
            gap = first_gap(self.chain, self._doubts.lost)
            assert gap is not None
            if self._doubts.reach_further(gap.span.start) and self._suspect_sender(gap):
                continue
            avoided = set(self._doubts.avoid)
            if await self._mend(gap, deadline_s):
                continue
            if loop.time() > deadline_s:
                cause = self._doubts.lost[gap.span.start]
                raise ChainBroken(self.chain[gap.first].node, cause)
            if self._doubts.avoid.keys() == avoided:  # the same would be tried again
                await self._seating.rest(pause_s)
                pause_s = min(2 * pause_s, PROBE_S)
        self._standbys.wake()

    def _suspect_sender(self, gap: Gap) -> bool:
        """Let the gap reach one hop further up, if whoever sent into it can be replaced."""
        if not gap.first or not self._seating.can_do_without(self.chain[gap.first - 1]):
            return False
        self._doubts.suspect(self.chain[gap.first - 1])
        return True

    async def _mend(self, gap: Gap, deadline_s: float) -> bool:
        """Fill one gap, and have what was sent into it sent again; False if there is more to do."""
        started_s = asyncio.get_running_loop().time()
        lost = self.chain[gap.first : gap.stop]
        leaving = self._around.leaving(lost, self._doubts.avoid)
        for hop in lost:
            if hop.node not in leaving:
                self._around.failed(hop.node)
        after = self.chain[gap.stop].node if gap.stop < len(self.chain) else None
        hops = self._standbys.instead_of(lost)
        warm = hops is not None
        if hops is None:
            hops = await self._find(gap, after, deadline_s)
            if not hops or not await self._seating.take(hops, after):
                return False
        causes = tuple(self._doubts.lost.pop(hop.span.start) for hop in lost)
        self.chain = mend(self.chain, gap, hops)
        since = await self._standbys.promote(hops, after, self._step) if warm else 0
        await self._send_again(gap.first, since)
        for hop, cause in zip(lost, causes, strict=True):
            if hop not in hops and (hop.node in leaving or not isinstance(cause, NodeLost)):
                await self._seating.free(hop.node, hop.span.start)
        took_s = asyncio.get_running_loop().time() - started_s
        reasons = tuple(map(str, causes))
        self._around.tell(Mended(lost, hops, reasons, self._step, took_s, standby=warm))
        return True

    async def _find(self, gap: Gap, after: NodeId | None, deadline_s: float) -> tuple[Hop, ...]:
        """A chain for the gap's blocks; waits for one until the deadline, and says so.

        Empty if the sender before the gap is suspected instead. Raises ChainBroken if the only
        ones that hold them have answered what no honest node does.
        """
        loop, doubts = asyncio.get_running_loop(), self._doubts
        before = self.chain[gap.first - 1].node if gap.first else None
        need = self._seating.need(before, after)
        said = ""
        while True:
            lost = {hop.node for hop in self.chain[gap.first : gap.stop]}
            refused = doubts.refused.keys()
            # Who failed us is better than nobody, and so is who may only seem to be bad.
            for avoid in (doubts.avoid.keys() | lost, refused | doubts.suspected.keys(), refused):
                with contextlib.suppress(NotCovered):
                    return self._around.route(gap.span, avoid, need)
            try:
                self._around.route(gap.span, (), need)
            except NotCovered as error:
                if loop.time() > deadline_s:
                    raise ChainBroken(self.chain[gap.first].node, NodeLost(str(error))) from None
                if str(error) != said:
                    said = str(error)
                    self._around.tell(said)
                await self._seating.woken(PROBE_S)
            else:
                if self._suspect_sender(gap):
                    return ()
                raise ChainBroken(*next(reversed(doubts.refused.items())))

    async def _send_again(self, first: int, since: int) -> None:
        """Have the node at this place of the chain sent what it lacks, the steps from `since` on.

        All but the last step are replayed; that one goes through to the end.
        """
        to = self.chain[first].node
        if first:
            before = self.chain[first - 1]
            reroute = self._seating.reroute(before.span.start, to, since)
            await self._seating.post(before.node, reroute)
            return
        entries = self._journals.since(self._home, since)
        for entry in entries:
            await self._send_step(entry.step, entry.segments, replay=entry is not entries[-1])

    async def _send_step(self, step: int, segments: Sequence[Segment], *, replay: bool) -> None:
        first = self.chain[0]
        attach = self._attach if step == 1 else 0
        place = self.id, first.span.start, step, self._around.me
        message = Step(*place, [], replay, attach, slowest_us=self._slowest_us)
        segments = self._seating.readable(segments, first.node)
        await self._seating.post(first.node, message, segments)
