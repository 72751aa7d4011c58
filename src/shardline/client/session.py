"""One caller's session over a chain of nodes: it survives the death of any of them.

The hidden state goes from node to node and from the last one straight back here; the caller is not
in the middle. Each sender notes what it sends. When nodes go away, the caller takes seats for the
lost blocks on others and tells the sender before the gap, which sends its notes there: the new
nodes fill their caches with the very steps that the old ones had, in their order, so the tokens
stay the same to the bit. If that sender is gone too, the gap reaches further up, at most to here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from shardline.client.surroundings import ChainBroken, Mended, Need
from shardline.core.errors import (
    BadInput,
    CacheFull,
    GiveUp,
    JournalLost,
    NodeLost,
    NotCovered,
    ShardlineError,
    StepTimeout,
    remote_error,
)
from shardline.core.ids import Seat, new_session_id, short
from shardline.swarm import Journals, first_gap, mend
from shardline.wire import Close, Failed, Open, Opened, Reroute, Result, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardline.client.surroundings import Surroundings
    from shardline.core.ids import NodeId, SessionId
    from shardline.core.segments import Segment
    from shardline.core.spans import Span
    from shardline.swarm import Gap, Hop
    from shardline.wire import Message, Spent

__all__ = ["RemoteSession", "Sessions"]

_log = logging.getLogger(__name__)

OPEN_S = 10.0
"""How long a node may take to give a seat; it may have to be dialled first."""
PROBE_S = 2.0
"""How often the chain's nodes are asked for a sign of life while a step is under way, and how long
each may take for it. Shorter finds frozen nodes sooner and asks busy ones oftener."""
STEP_S = 600.0
"""How long a step may take while all of the chain's nodes live: a long prompt is minutes' work."""
PATIENCE_S = 120.0
"""How long a session waits for somebody who holds its blocks. Longer rides out a restart; shorter
tells the caller sooner."""
PAUSE_S = 0.1
"""Between two tries to mend one gap, doubling."""
CLOSE_S = 2.0
MENDS_MAX = 32
"""Mends during one step before the session gives up."""
JOURNAL_BYTES = 2**29
"""What a caller keeps to send again: the inputs of the first block, for all tokens so far. More
than a node lets wait could not be sent again in one go."""


class RemoteSession:
    """A batch's cache on every node of one chain."""

    def __init__(self, around: Surroundings, fingerprint: str, span: Span) -> None:
        self.id: SessionId = new_session_id()
        self.chain: tuple[Hop, ...] = ()
        self._around = around
        self._fingerprint = fingerprint
        self._span = span
        self._rows = self._tokens = 0
        self._step = 0
        self._journals = Journals(JOURNAL_BYTES)
        self._wake = asyncio.Event()
        self._result: tuple[Sequence[Segment], list[Spent]] | None = None
        self._fatal: ShardlineError | None = None
        self._gone: dict[NodeId, ShardlineError] = {}
        """Nodes that were heard to be gone, and why; not yet looked at."""
        self._lost: dict[int, ShardlineError] = {}
        """First blocks of the chain's hops whose seats are lost, and why."""
        self._avoid: dict[NodeId, ShardlineError] = {}
        """Nodes not to ask again unless there is no other."""
        self._unopened: set[tuple[NodeId, int]] = set()
        self._asked: set[NodeId] = set()
        """Nodes that may hold a seat of ours."""

    async def open(self, *, rows: int, tokens: int) -> None:
        """Take seats for `rows` sequences of at most `tokens` tokens on a chain for all blocks.

        Raises NotCovered at once if no chain can be had, or ChainBroken with the last refusal.
        """
        self._rows, self._tokens = rows, tokens
        while True:
            try:
                chain = self._around.route(self._span, self._avoid, self._need(None, None))
            except NotCovered:
                if not self._avoid:
                    raise
                node, cause = next(reversed(self._avoid.items()))
                raise (cause if isinstance(cause, BadInput) else ChainBroken(node, cause)) from None
            if await self._take_seats(chain, None):
                self.chain = chain
                return

    async def step(
        self, segments: Sequence[Segment], tokens: int = 1
    ) -> tuple[Sequence[Segment], list[Spent]]:
        """One step through the whole chain: what came back, and what each node spent on it.

        `tokens` is how many the step holds of each sequence.

        Nodes that fail meanwhile are replaced. Raises ChainBroken when that cannot be done within
        PATIENCE_S, CacheFull beyond the tokens that the session was opened for, StepTimeout.
        """
        for node, reason in self._around.leaving(self.chain).items():
            self._gone.setdefault(node, NodeLost(reason))
        if self._broken():
            await self._mend_all()
        kept = [bytes(segment) for segment in segments]
        self._journals.add(self._home, self._step, kept)
        self._result = None
        await self._send_step(self._step, kept, replay=False)
        out, spent = await self._finish()
        self._step += 1
        if tokens == 1 and len(spent) == len(self.chain):
            for hop, node in zip(self.chain, spent, strict=True):
                self._around.judge(hop.node, node.compute_us / 1e6 / len(hop.span))
        return out, spent

    async def close(self) -> None:
        """Free the cache on every node that can still be told."""
        self._journals.drop(self._home)
        await asyncio.gather(*(self._free(node, None) for node in self._asked))

    def on_message(self, peer: NodeId, message: Message, segments: Sequence[Segment]) -> None:
        """What nodes answer; what comes late or from elsewhere is passed over."""
        match message:
            case Opened(start=start):
                self._unopened.discard((peer, start))
            case Result(step=step) if step == self._step and peer == self.chain[-1].node:
                self._result = (segments, message.spent)
            case Failed():
                self._failed(peer, message)
            case _:
                return
        self._wake.set()

    def on_gone(self, node: NodeId, cause: ShardlineError) -> None:
        """A node left the swarm, or the link to it broke; its seats are lost to us."""
        self._gone[node] = cause
        self._wake.set()

    def on_joined(self, node: NodeId) -> None:
        """A node came, or came back: it may be asked again."""
        self._avoid.pop(node, None)
        self._wake.set()

    @property
    def _home(self) -> Seat:
        """Where our own notes are kept: what was sent to the first block."""
        return Seat(self.id, self._span.start)

    def _need(self, before: NodeId | None, after: NodeId | None) -> Need:
        return Need(self._rows * self._tokens, self.id, before, after)

    def _failed(self, peer: NodeId, message: Failed) -> None:
        text = "".join(
            sign if sign.isprintable() else "?" for sign in " ".join(message.text.split())
        )
        error = remote_error(message.kind, text)  # one line, whatever a peer wrote
        if message.step is None and any(asked == peer for asked, _ in self._unopened):
            self._avoid[peer] = self._gone[peer] = error
        elif isinstance(error, JournalLost):  # it cannot fill the gap behind it: it is part of it
            self._gone[peer] = error
        elif isinstance(error, CacheFull | GiveUp):
            self._fatal = error
        else:
            node = message.about or peer
            self._avoid[node] = self._gone[node] = error

    def _broken(self) -> bool:
        """Whether seats of the chain are lost, by all that was heard."""
        for hop in self.chain:
            if hop.node in self._gone:
                self._lost[hop.span.start] = self._gone[hop.node]
        self._gone.clear()
        return bool(self._lost)

    async def _finish(self) -> tuple[Sequence[Segment], list[Spent]]:
        """Wait for the step's result, and mend the chain as often as it breaks meanwhile."""
        loop = asyncio.get_running_loop()
        deadline_s, mends = loop.time() + STEP_S, 0
        while self._result is None:
            if self._fatal is not None:
                error, self._fatal = self._fatal, None
                raise error
            if self._broken():
                mends += 1
                if mends > MENDS_MAX:
                    cause = next(iter(self._lost.values()))
                    raise ChainBroken(self.chain[0].node, cause)
                await self._mend_all()
                deadline_s = loop.time() + STEP_S
            elif loop.time() > deadline_s:
                raise StepTimeout(f"step {self._step} was not answered within {STEP_S:.0f} s")
            elif not await self._woken(PROBE_S):
                await self._probe()
        return self._result

    async def _woken(self, wait_s: float) -> bool:
        """Whether something was heard within this time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        woken = self._wake.is_set()
        self._wake.clear()
        return woken

    async def _probe(self) -> None:
        """Ask every node of the chain for a sign of life; those that give none are gone."""
        nodes = {hop.node for hop in self.chain}
        alive = await asyncio.gather(*(self._around.alive(node, PROBE_S) for node in nodes))
        for node, lives in zip(nodes, alive, strict=True):
            if not lives:
                lost = NodeLost(f"node {short(node)} gave no sign of life within {PROBE_S:.0f} s")
                self._avoid[node] = self._gone[node] = lost

    async def _mend_all(self) -> None:
        """Fill every gap of the chain, from the caller's side on."""
        loop = asyncio.get_running_loop()
        deadline_s, pause_s = loop.time() + PATIENCE_S, PAUSE_S
        while self._broken():
            gap = first_gap(self.chain, self._lost)
            assert gap is not None
            if await self._mend(gap, deadline_s):
                continue
            if loop.time() > deadline_s:
                raise ChainBroken(self.chain[gap.first].node, self._lost[gap.span.start])
            await self._woken(pause_s)
            pause_s = min(2 * pause_s, PROBE_S)

    async def _mend(self, gap: Gap, deadline_s: float) -> bool:
        """Fill one gap, and have what was sent into it sent again; False if seats were refused."""
        started_s = asyncio.get_running_loop().time()
        lost = self.chain[gap.first : gap.stop]
        leaving = self._around.leaving(lost)
        for hop in lost:
            if hop.node not in leaving:
                self._around.failed(hop.node)
        after = self.chain[gap.stop].node if gap.stop < len(self.chain) else None
        hops = await self._find(gap, after, deadline_s)
        if not await self._take_seats(hops, after):
            return False
        causes = tuple(self._lost.pop(hop.span.start) for hop in lost)
        self.chain = mend(self.chain, gap, hops)
        if gap.first:
            before = self.chain[gap.first - 1]
            await self._post(before.node, Reroute(self.id, before.span.start, hops[0].node))
        else:
            await self._replay()
        taken = {(hop.node, hop.span.start) for hop in hops}
        for hop, cause in zip(lost, causes, strict=True):
            lives = hop.node in leaving or isinstance(cause, JournalLost)
            if lives and (hop.node, hop.span.start) not in taken:
                await self._free(hop.node, hop.span.start)
        took_s = asyncio.get_running_loop().time() - started_s
        self._around.tell(Mended(lost, hops, tuple(map(str, causes)), self._step, took_s))
        return True

    async def _find(self, gap: Gap, after: NodeId | None, deadline_s: float) -> tuple[Hop, ...]:
        """A chain for the gap's blocks; waits for one until the deadline, and says so."""
        loop = asyncio.get_running_loop()
        lost = self.chain[gap.first : gap.stop]
        before = self.chain[gap.first - 1].node if gap.first else None
        avoid = self._avoid | {hop.node: self._lost[hop.span.start] for hop in lost}
        said = ""
        while True:
            try:
                return self._around.route(gap.span, avoid, self._need(before, after))
            except NotCovered as error:
                if avoid:  # whoever failed us is better than nobody, if it is there
                    avoid = {}
                    continue
                if loop.time() > deadline_s:
                    raise ChainBroken(lost[0].node, NodeLost(str(error))) from None
                if str(error) != said:
                    said = str(error)
                    self._around.tell(said)
                await self._woken(PROBE_S)

    async def _take_seats(self, hops: tuple[Hop, ...], after: NodeId | None) -> bool:
        """Take a seat at each of these nodes; False if one did not give it and is to be avoided.

        Then the others' seats are left, so that they are free for the next try.
        """
        self._unopened = {(hop.node, hop.span.start) for hop in hops}
        asked = {hop.node for hop in hops}
        self._asked |= asked
        for node in asked:
            self._gone.pop(node, None)
        for at, hop in enumerate(hops):
            fresh = at + 1 < len(hops)
            await self._post(
                hop.node,
                Open(
                    session=self.id,
                    caller=self._around.me,
                    model=self._fingerprint,
                    start=hop.span.start,
                    stop=hop.span.stop,
                    next=hops[at + 1].node if fresh else after,
                    tokens=self._tokens,
                    batch=self._rows,
                    fresh=fresh,
                ),
            )
        deadline_s = asyncio.get_running_loop().time() + OPEN_S
        while self._unopened and not asked & self._gone.keys():
            left_s = deadline_s - asyncio.get_running_loop().time()
            if left_s <= 0:
                for node, _ in self._unopened:
                    late = NodeLost(f"node {short(node)} gave no seat within {OPEN_S:.0f} s")
                    self._avoid[node] = self._gone[node] = late
            else:
                await self._woken(left_s)
        given = not self._unopened
        self._unopened = set()
        if not given:
            live = [hop for hop in hops if hop.node not in self._gone]
            await asyncio.gather(*(self._free(hop.node, hop.span.start) for hop in live))
        return given

    async def _free(self, node: NodeId, start: int | None) -> None:
        """Leave a seat (None: all of them), if the node can be told."""
        with contextlib.suppress(ShardlineError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._around.post.send(node, Close(self.id, start))

    async def _replay(self) -> None:
        """Send all of our own notes to the first node; the last step goes through to the end."""
        entries = self._journals.since(self._home, 0)
        for entry in entries:
            await self._send_step(entry.step, entry.segments, replay=entry is not entries[-1])

    async def _send_step(self, step: int, segments: Sequence[Segment], *, replay: bool) -> None:
        first = self.chain[0]
        message = Step(self.id, first.span.start, step, self._around.me, [], replay)
        await self._post(first.node, message, segments)

    async def _post(self, node: NodeId, message: Message, segments: Sequence[Segment] = ()) -> None:
        """Send to a node; one that cannot be reached is gone, and the chain will be mended."""
        try:
            async with asyncio.timeout(OPEN_S):
                await self._around.post.send(node, message, segments)
        except (ShardlineError, TimeoutError) as error:
            reason = str(error) or f"no way through within {OPEN_S:.0f} s"
            lost = NodeLost(f"node {short(node)} cannot be reached: {reason}")
            self._avoid[node] = self._gone[node] = error if isinstance(error, BadInput) else lost
            self._wake.set()


class Sessions:
    """All open sessions of one caller, and whose message is whose."""

    def __init__(self) -> None:
        self._open: dict[SessionId, RemoteSession] = {}

    def add(self, session: RemoteSession) -> None:
        """From now on the session hears its messages."""
        self._open[session.id] = session

    def remove(self, session: RemoteSession) -> None:
        """The session hears nothing more."""
        self._open.pop(session.id, None)

    def on_message(self, peer: NodeId, message: Message, segments: Sequence[Segment]) -> None:
        """Hand a message to its session; one for no session is late, and passed over."""
        if isinstance(message, Opened | Result | Failed):
            session = self._open.get(message.session)
            if session is not None:
                session.on_message(peer, message, segments)

    def on_gone(self, node: NodeId, cause: ShardlineError) -> None:
        """Tell every session that a node is gone."""
        for session in list(self._open.values()):
            session.on_gone(node, cause)

    def on_joined(self, node: NodeId) -> None:
        """Tell every session that a node is here, or back."""
        for session in list(self._open.values()):
            session.on_joined(node)
