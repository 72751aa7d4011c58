"""A node's work: sessions are opened, steps come in, go through the engine, and go on.

A step's journey: the channel hands `on_message` its segments; the engine's one thread turns them
into the next segments; they are sent to the session's next node, or back to the caller if this is
the last span. The caller is told of everything that fails, by name and in one line.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar

from shardline.codec import pack, unpack
from shardline.core.errors import (
    NodeLost,
    PeerFault,
    SessionUnknown,
    ShardlineError,
    StepFailed,
    TryElsewhere,
    Unsupported,
)
from shardline.core.ids import short
from shardline.core.spans import Span
from shardline.model import Crossing
from shardline.wire import Close, Failed, Open, Opened, Result, Spent, Step

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence
    from concurrent.futures import Executor

    from shardline.core.clock import Clock
    from shardline.core.ids import NodeId, SessionId
    from shardline.core.segments import Segment
    from shardline.runtime import SpanEngine
    from shardline.wire import Message

__all__ = ["Duty", "Post", "Worker"]

T = TypeVar("T")
P = ParamSpec("P")

_log = logging.getLogger(__name__)

SMOOTHING = 0.9
"""How much of the measured rate is kept with each new step."""

FORWARD_S = 20.0
"""How long a node tries to hand a step on. Longer rides out a stall of the link, shorter tells the
caller sooner that the next node is lost."""

UNDER_WAY_MAX = 4_096
"""Messages of one peer that may be worked on at once; each holds a task. More is a flood."""
HOPS_MAX = 1_000
"""Nodes that may have signed a step: each hop adds itself, and a message carries 1,024."""


class Post(Protocol):
    """What the worker asks of the switchboard."""

    async def send(self, peer: NodeId, message: Message, segments: Sequence[Segment] = ()) -> None:
        """Deliver to a peer's handler, dialling it if needed."""
        ...

    def hang_up(self, peer: NodeId, error: ShardlineError) -> None:
        """End the channel to a peer that broke the protocol."""
        ...


@dataclass(frozen=True, slots=True)
class Duty:
    """What this node has promised in its record."""

    me: NodeId
    model: str
    span: Span


@dataclass(slots=True)
class _Route:
    """Where a session's results go, and who asked for it."""

    caller: NodeId
    next: NodeId | None
    blocks: int
    busy: bool = False


@dataclass(slots=True)
class Tally:
    """What the node has done, for its record's load and rate."""

    steps: int = 0
    compute_s: float = 0.0
    block_steps_per_s: float = 0.0
    """Single-token steps through one block a second, smoothed."""

    def add(self, tokens: int, blocks: int, spent_s: float) -> None:
        """Count one step."""
        self.steps += 1
        self.compute_s += spent_s
        if tokens == 1 and spent_s > 0:
            rate = blocks / spent_s
            kept = SMOOTHING if self.block_steps_per_s else 0.0
            self.block_steps_per_s = kept * self.block_steps_per_s + (1 - kept) * rate


class Worker:
    """One node's sessions. Its methods run on the event loop, the engine's on `thread`."""

    def __init__(  # noqa: PLR0913  (ports first, then the edges of its world)
        self,
        engine: SpanEngine,
        duty: Duty,
        *,
        post: Post,
        thread: Executor,
        clock: Clock,
        spawn: Callable[[Coroutine[None, None, None]], object],
    ) -> None:
        self._engine = engine
        self._duty = duty
        self._post = post
        self._thread = thread
        self._clock = clock
        self._spawn = spawn
        self._routes: dict[SessionId, _Route] = {}
        self._under_way: Counter[NodeId] = Counter()
        self.tally = Tally()

    def on_message(self, peer: NodeId, message: Message, segments: Sequence[Segment]) -> None:
        """Take one message from an authenticated peer; never blocks and never raises."""
        if self._under_way[peer] >= UNDER_WAY_MAX:
            self._post.hang_up(peer, PeerFault("more messages at once than are taken"))
            return
        match message:
            case Step():
                self._on_step(peer, message, segments)
            case Open():
                self._on_open(peer, message)
            case Close():
                route = self._routes.get(message.session)
                if route is not None and route.caller == peer:
                    self._start(peer, self._end, message.session, route)
            case _:
                _log.info("ignored a %s from %s", type(message).__name__, short(peer))

    def on_lost(self, peer: NodeId) -> None:
        """A peer is gone, or was cut off: nobody waits for its sessions any more."""
        for session, route in list(self._routes.items()):
            if route.caller == peer:
                self._start(peer, self._end, session, route)

    @property
    def sessions(self) -> int:
        """How many sessions are open."""
        return len(self._routes)

    async def expire(self) -> None:
        """Close the sessions that nobody used for long; call it now and then."""
        for session in await self._call(self._engine.expire, self._clock.monotonic_s()):
            self._routes.pop(session, None)

    def _on_open(self, peer: NodeId, message: Open) -> None:
        if peer != message.caller:
            self._post.hang_up(peer, PeerFault("a session opened in another node's name"))
            return
        if message.session in self._routes:
            self._post.hang_up(peer, PeerFault("a session that is open already was opened"))
            return
        refusal = self._refusal(message)
        if refusal is not None:
            self._start(peer, self._fail, peer, message.session, None, refusal)
            return
        # The route is there before the engine is asked, so that a Close finds it.
        route = _Route(peer, message.next, message.stop - message.start)
        self._routes[message.session] = route
        self._start(peer, self._open, message, route)

    def _refusal(self, message: Open) -> ShardlineError | None:
        if message.model != self._duty.model:
            return TryElsewhere(f"this node serves model {self._duty.model[:8]}")
        if not self._duty.span.start <= message.start < message.stop <= self._duty.span.stop:
            return TryElsewhere(f"this node holds blocks {self._duty.span}")
        return None

    async def _open(self, message: Open, route: _Route) -> None:
        def work() -> None:
            self._engine.open(
                message.session,
                Span(message.start, message.stop),
                rows=message.batch,
                tokens=message.tokens,
                now_s=self._clock.monotonic_s(),
            )

        try:
            await self._engine_call(message.session, work)
        except ShardlineError as error:
            await self._end(message.session, route)
            await self._fail(route.caller, message.session, None, error)
            if isinstance(error, PeerFault):
                self._post.hang_up(route.caller, error)
            return
        await self._tell(route.caller, Opened(message.session, self._duty.me))

    def _on_step(self, peer: NodeId, message: Step, segments: Sequence[Segment]) -> None:
        """Look before a task is made: what cannot be used does not hold its segments."""
        route = self._routes.get(message.session)
        if route is None:
            error = SessionUnknown(f"session {message.session[:8]} is not open here")
            self._start(peer, self._fail, peer, message.session, message.step, error)
        elif route.busy:
            fault = PeerFault("two steps of one session at once")
            self._start(peer, self._refuse, peer, route, message, fault)
        elif len(message.spent) >= HOPS_MAX:
            fault = PeerFault(f"a step that {len(message.spent)} nodes have signed")
            self._start(peer, self._refuse, peer, route, message, fault)
        else:
            route.busy = True
            self._start(peer, self._step, peer, route, message, segments)

    async def _step(
        self, peer: NodeId, route: _Route, message: Step, segments: Sequence[Segment]
    ) -> None:
        try:
            out, compute_s = await self._engine_call(
                message.session, self._compute, route, message.session, segments
            )
        except PeerFault as error:
            await self._refuse(peer, route, message, error)
            return
        except ShardlineError as error:
            if isinstance(error, StepFailed):  # its cache is spoilt
                await self._end(message.session, route)
            await self._fail(route.caller, message.session, message.step, error)
            return
        finally:
            route.busy = False
        if self._routes.get(message.session) is route:  # else it was ended meanwhile
            await self._go_on(route, message, out, compute_s)

    async def _refuse(self, peer: NodeId, route: _Route, message: Step, fault: PeerFault) -> None:
        """End a session whose steps break the protocol, and cut its caller off.

        A node that only hands on what its caller sent is not to blame: other callers need it.
        """
        await self._end(message.session, route)
        await self._fail(route.caller, message.session, message.step, fault)
        if peer == route.caller:
            self._post.hang_up(peer, fault)
            return
        hands = short(route.caller), short(peer)
        _log.warning("ended a session of node %s that node %s handed on: %s", *hands, fault)

    async def _go_on(
        self, route: _Route, message: Step, out: list[memoryview], compute_s: float
    ) -> None:
        sent_bytes = sum(segment.nbytes for segment in out)
        spent = [*message.spent, Spent(short(self._duty.me), int(compute_s * 1e6), sent_bytes)]
        session, step = message.session, message.step
        try:
            if route.next is None:
                await self._send(route.caller, Result(session, step, spent), out)
            else:
                await self._send(route.next, Step(session, step, spent), out)
        except Unsupported as error:
            await self._fail(route.caller, session, step, error)
        except (TimeoutError, ShardlineError) as error:
            to = route.next or route.caller
            lost = NodeLost(f"node {short(to)} cannot be reached: {error or 'no answer in time'}")
            await self._fail(route.caller, session, step, lost)

    async def _end(self, session: SessionId, route: _Route) -> None:
        """Forget a session here and free its cache; later steps find it unknown."""
        if self._routes.get(session) is route:
            del self._routes[session]
            await self._call(self._engine.close, session)

    def _compute(
        self, route: _Route, session: SessionId, segments: Sequence[Segment]
    ) -> tuple[list[memoryview], float]:
        """On the engine's thread: bytes to tensors, the blocks' work, tensors to bytes."""
        crossing = Crossing.from_tree(unpack(segments))
        started_s = time.perf_counter()
        out = self._engine.step(session, crossing, now_s=self._clock.monotonic_s())
        compute_s = time.perf_counter() - started_s
        self.tally.add(crossing.tokens, route.blocks, compute_s)
        return pack(out.to_tree()), compute_s

    def _start(
        self, peer: NodeId, work: Callable[P, Awaitable[None]], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Do this work for a peer in a task of its own, counted while it lasts."""
        self._under_way[peer] += 1
        self._spawn(self._supervise(peer, work, *args, **kwargs))

    async def _supervise(
        self, peer: NodeId, work: Callable[P, Awaitable[None]], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        try:
            await work(*args, **kwargs)
        except Exception:  # noqa: BLE001  (a task's supervisor: the node serves on)
            _log.exception("a bug of ours, met by what node %s sent", short(peer))
        finally:
            self._under_way[peer] -= 1
            if not self._under_way[peer]:
                del self._under_way[peer]

    async def _engine_call(self, session: SessionId, work: Callable[..., T], *args: object) -> T:
        """As `_call`; whatever goes wrong there is an error that can be told to a caller."""
        try:
            return await self._call(work, *args)
        except ShardlineError:
            raise
        except Exception as error:
            _log.warning("session %s failed", session[:8], exc_info=True)
            reason = f"{type(error).__name__}: {error}"
            raise StepFailed(f"blocks {self._duty.span}: {reason}") from error

    async def _call(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    async def _send(self, peer: NodeId, message: Message, segments: Sequence[Segment] = ()) -> None:
        async with asyncio.timeout(FORWARD_S):
            await self._post.send(peer, message, segments)

    async def _tell(self, peer: NodeId, message: Message) -> None:
        """Send if the peer is still there; if not, nobody waits for it."""
        with contextlib.suppress(TimeoutError, ShardlineError):
            await self._send(peer, message)

    async def _fail(
        self, caller: NodeId, session: SessionId, step: int | None, error: ShardlineError
    ) -> None:
        _log.info("session %s, step %s: %s", session[:8], step, error)
        await self._tell(caller, Failed.of(session, step, self._duty.me, error))
