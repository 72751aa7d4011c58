"""One caller's session over a chain of nodes: opened at all of them, stepped at the first.

The hidden state goes from node to node and from the last one straight back here; the caller is not
in the middle. What fails anywhere on the chain arrives as one `Failed` from the node that saw it.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from shardline.core.errors import (
    NodeLost,
    ShardlineError,
    StepTimeout,
    TryElsewhere,
    remote_error,
)
from shardline.core.ids import new_session_id, short
from shardline.wire import Close, Failed, Open, Opened, Result, Spent, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardline.core.ids import NodeId, SessionId
    from shardline.core.segments import Segment
    from shardline.swarm import Hop
    from shardline.wire import Message

__all__ = ["ChainBroken", "Post", "RemoteSession", "Sessions", "StepTimes"]

OPEN_S = 20.0
"""How long a node may take to say whether it opens a session; it may have to be dialled first."""
STEP_S = 120.0
"""How long a whole step may take: a long prompt on slow nodes is a minute's work."""


class Post(Protocol):
    """What a session asks of the switchboard."""

    async def send(self, peer: NodeId, message: Message, segments: Sequence[Segment] = ()) -> None:
        """Deliver to a peer's handler, dialling it if needed."""
        ...


class ChainBroken(TryElsewhere):
    """A node of a chain failed; `node` says which, `cause` how."""

    def __init__(self, node: NodeId, cause: ShardlineError) -> None:
        super().__init__(str(cause))
        self.node = node
        self.cause = cause


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Where one step's time and bytes went."""

    wall_s: float
    nodes_s: tuple[float, ...]
    """What each node of the chain computed."""
    moved_bytes: int

    @property
    def overhead_ms(self) -> float:
        """Time per link that no node computed in: frames, queues, wake-ups, the network."""
        links = len(self.nodes_s) + 1
        return 1e3 * max(0.0, self.wall_s - sum(self.nodes_s)) / links


class RemoteSession:
    """A batch's cache on every node of one chain."""

    def __init__(self, post: Post, me: NodeId, chain: tuple[Hop, ...], fingerprint: str) -> None:
        self.id: SessionId = new_session_id()
        self.chain = chain
        self._post = post
        self._me = me
        self._fingerprint = fingerprint
        self._unopened = {hop.node for hop in chain}
        self._waiting: asyncio.Future[tuple[Result | None, Sequence[Segment]]] | None = None
        self._step = 0
        self._broken: ChainBroken | None = None

    async def open(self, *, rows: int, tokens: int) -> None:
        """Reserve the cache on every node; raises ChainBroken naming one that would not."""
        self._expect()
        nexts = [*(hop.node for hop in self.chain[1:]), None]
        try:
            async with asyncio.timeout(OPEN_S):
                for hop, following in zip(self.chain, nexts, strict=True):
                    message = Open(
                        session=self.id,
                        caller=self._me,
                        model=self._fingerprint,
                        start=hop.span.start,
                        stop=hop.span.stop,
                        next=following,
                        tokens=tokens,
                        batch=rows,
                    )
                    await self._reach(hop.node, message)
                await self._answer()
        except TimeoutError:
            silent = min(self._unopened)
            text = f"node {short(silent)} did not open a session within {OPEN_S:.0f} s"
            raise ChainBroken(silent, StepTimeout(text)) from None

    async def step(self, segments: Sequence[Segment]) -> tuple[Sequence[Segment], list[Spent]]:
        """One step through the whole chain: what came back, and what each node spent on it.

        Raises ChainBroken when a node fails or goes away.
        """
        self._expect()
        try:
            async with asyncio.timeout(STEP_S):
                await self._reach(self.chain[0].node, Step(self.id, self._step, []), segments)
                result, out = await self._answer()
        except TimeoutError:
            text = f"step {self._step} was not answered within {STEP_S:.0f} s"
            raise ChainBroken(self.chain[0].node, StepTimeout(text)) from None
        assert result is not None
        self._step += 1
        return out, result.spent

    async def close(self) -> None:
        """Free the cache on every node that can still be told."""
        for hop in self.chain:
            with contextlib.suppress(ShardlineError, TimeoutError):
                async with asyncio.timeout(2.0):
                    await self._post.send(hop.node, Close(self.id))

    def on_message(self, peer: NodeId, message: Message, segments: Sequence[Segment]) -> None:
        """What the chain's nodes answer; anything else is passed over."""
        match message:
            case Opened() if peer in self._unopened:
                self._unopened.discard(peer)
                if not self._unopened:
                    self._deliver(None, ())
            case Result(step=step) if peer == self.chain[-1].node and step == self._step:
                self._deliver(message, segments)
            case Failed() if any(hop.node == peer for hop in self.chain):
                self.fail(peer, remote_error(message.kind, message.text))
            case _:
                pass

    def on_left(self, node: NodeId) -> None:
        """A node left the swarm; whoever waits for it is told."""
        if any(hop.node == node for hop in self.chain):
            self.fail(node, NodeLost(f"node {short(node)} went away"))

    def fail(self, node: NodeId, cause: ShardlineError) -> None:
        """The chain is broken at `node`: this step and all later ones end with that."""
        self._broken = self._broken or ChainBroken(node, cause)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(self._broken)

    async def _reach(
        self, node: NodeId, message: Message, segments: Sequence[Segment] = ()
    ) -> None:
        try:
            await self._post.send(node, message, segments)
        except ShardlineError as error:
            raise ChainBroken(node, error) from None

    def _expect(self) -> None:
        if self._broken is not None:
            raise self._broken
        self._waiting = asyncio.get_running_loop().create_future()

    async def _answer(self) -> tuple[Result | None, Sequence[Segment]]:
        assert self._waiting is not None
        return await self._waiting

    def _deliver(self, result: Result | None, segments: Sequence[Segment]) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result((result, segments))


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

    def on_left(self, node: NodeId) -> None:
        """Tell every session that a node left."""
        for session in list(self._open.values()):
            session.on_left(node)
