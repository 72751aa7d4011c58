"""A node's work: seats are taken, steps come in, go through the engine, and go on.

A step's journey: the channel hands `on_message` its segments; they queue at their seat; the
engine's one thread turns them into the next segments; the outbox notes these, and sends them to
the seat's next node, or back to the caller if this is the last span. The caller is told of
everything that fails, by name and in one line.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from shardline.core.errors import (
    CacheFull,
    JournalLost,
    NodeLost,
    PeerFault,
    SessionUnknown,
    ShardlineError,
    StepFailed,
    TryElsewhere,
)
from shardline.core.ids import Seat, short
from shardline.core.spans import Span
from shardline.node.outbox import Outbox
from shardline.node.rounds import Rounds
from shardline.node.seats import Arrived, SeatState, Shares
from shardline.node.tally import Tally
from shardline.node.tasks import PeerTasks, Ration
from shardline.node.wiring import EXACT, Wires, Wiring
from shardline.runtime import Named
from shardline.wire import EVERY_STEP, Close, Open, Opened, Reroute, Spent, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from concurrent.futures import Executor

    from shardline.core.clock import Clock
    from shardline.core.ids import NodeId
    from shardline.core.segments import Segment
    from shardline.node.outbox import Post
    from shardline.runtime import SpanEngine
    from shardline.wire import Message

__all__ = ["Duty", "Worker"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

HOPS_MAX = 1_000
"""Nodes that may have signed a step: each hop adds itself, and a message carries 1,024."""
ORPHAN_S = 60.0
"""The lease: how long a seat outlives the link to its caller. A caller that is back within it goes
on where it was, nothing lost. Longer rides out worse networks; shorter frees sooner what a dead
caller held."""
SEATS_MAX = 256
"""Seats of one caller, so that others find some too."""
QUEUE_BYTES_MAX = 2**29
"""Steps that may wait at all seats of one caller, in bytes: a whole journal is replayed in one
go."""
STRANGERS_TOLD_PER_S = 100
"""A step of an unknown session may name anyone as its caller, who is told so: no flood of it."""


@dataclass(frozen=True, slots=True)
class Duty:
    """What this node has promised in its record, and how it writes."""

    me: NodeId
    model: str
    span: Span
    wires: Wires = EXACT


class Worker:
    """One node's seats. Its methods run on the event loop, the engine's on `thread`."""

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
        self._tasks = PeerTasks(spawn)
        self._outbox = Outbox(duty.me, post)
        self._seats: dict[Seat, SeatState] = {}
        self._shares = Shares()
        self._left = asyncio.Event()
        self._leaving = False
        self._offers: tuple[Span, ...] = (duty.span,)
        self._computing = 0
        self._strangers = Ration(STRANGERS_TOLD_PER_S)
        self.tally = Tally()
        self._rounds = Rounds(engine, thread, clock, self.tally, duty.wires.read)

    @property
    def queue(self) -> int:
        """Steps that wait for the engine."""
        waiting = sum(state.queue.qsize() for state in self._seats.values())
        return waiting + max(0, self._computing - 1)

    def offer(self, *spans: Span) -> None:
        """Give seats within these spans only from now on; seats that are taken stay taken."""
        self._offers = spans

    async def cleared(self) -> None:
        """Wait until no seat is taken outside of what is offered."""
        while self._outside():
            self._left.clear()
            await self._left.wait()

    def clear(self) -> None:
        """Leave every seat outside of what is offered."""
        for seat, state in self._outside():
            self._leave(seat, state)

    async def vacant(self) -> None:
        """Give no more seats, and wait until none is taken."""
        self._leaving = True
        while self._seats:
            self._left.clear()
            await self._left.wait()

    def on_message(self, peer: NodeId, message: Message, segments: Sequence[Segment]) -> None:
        """Take one message from an authenticated peer; never blocks and never raises."""
        if self._tasks.floods(peer):
            self._post.hang_up(peer, PeerFault("more messages at once than are taken"))
            return
        match message:
            case Step():
                self._on_step(Arrived(peer, message, segments))
            case Open():
                self._on_open(peer, message)
            case Reroute():
                self._tasks.start(peer, self._reroute, peer, message)
            case Close():
                for seat, state in list(self._seats.items()):
                    named = message.start in {None, seat.start}
                    if seat.session == message.session and named and state.caller == peer:
                        self._leave(seat, state)
            case _:
                _log.info("ignored a %s from %s", type(message).__name__, short(peer))

    def on_lost(self, peer: NodeId, error: ShardlineError) -> None:
        """A link broke: what was on its way to that node is lost, and its callers are told."""
        lost = NodeLost(f"the link to node {short(peer)} broke: {error}")
        for seat, state in list(self._seats.items()):
            if state.caller == peer and isinstance(error, PeerFault):
                self._leave(seat, state)  # we cut it off: nobody waits for what it asked
            elif state.caller == peer:
                state.orphaned_at_s = self._clock.monotonic_s()
            elif state.next == peer:
                fail = self._outbox.fail
                self._tasks.start(peer, fail, state.caller, seat, state.expected, lost, peer)

    async def expire(self) -> None:
        """Clear the seats that nobody uses or has a caller for; call it now and then."""
        now_s = self._clock.monotonic_s()
        states = dict(self._seats)
        for seat in await self._call(self._engine.expire, now_s):
            if seat in states:
                self._leave(seat, states[seat])  # unless somebody took it anew meanwhile
        for seat, state in list(self._seats.items()):
            if state.orphaned_at_s is not None and now_s - state.orphaned_at_s > ORPHAN_S:
                self._leave(seat, state)

    def close(self) -> None:
        """Leave every seat."""
        for seat, state in list(self._seats.items()):
            self._leave(seat, state)

    def _on_open(self, peer: NodeId, message: Open) -> None:
        if peer != message.caller:
            self._post.hang_up(peer, PeerFault("a session opened in another node's name"))
            return
        seat = Seat(message.session, message.start)
        known = self._seats.get(seat)
        refusal = self._refusal(message, known)
        if refusal is not None:
            self._tasks.start(peer, self._outbox.fail, peer, seat, None, refusal)
            return
        # The seat is there before the engine is asked, so that a Close finds it.
        if known is not None:
            self._leave(seat, known)
        span = Span(message.start, message.stop)
        fresh = message.fresh and message.next is not None
        next_has = 0 if fresh else EVERY_STEP
        reserved = message.batch * message.tokens
        wiring = Wiring(self._duty.wires, message.block)
        wiring.turn_to(message.wire)
        state = SeatState(peer, span, message.next, next_has, reserved, wiring=wiring)
        self._seats[seat] = state
        self._tasks.start(peer, self._serve, seat, state, message)

    def _refusal(self, message: Open, known: SeatState | None) -> ShardlineError | None:
        if message.model != self._duty.model:
            return TryElsewhere(f"this node serves model {self._duty.model[:8]}")
        if not self._offered(message.start, message.stop):
            return TryElsewhere(f"this node holds {self._held()}")
        if self._leaving:
            return TryElsewhere("this node is leaving")
        if known is not None:
            ours = known.caller == message.caller
            return None if ours else PeerFault("this seat is another caller's")
        if len(self._seats_of(message.caller)) >= SEATS_MAX:
            return CacheFull(f"{SEATS_MAX} seats are yours here, and no more are given")
        return None

    def _held(self) -> str:
        return "blocks " + " and ".join(map(str, self._offers)) if self._offers else "no blocks now"

    def _offered(self, start: int, stop: int) -> bool:
        return any(span.start <= start < stop <= span.stop for span in self._offers)

    def _outside(self) -> list[tuple[Seat, SeatState]]:
        return [
            (seat, state)
            for seat, state in self._seats.items()
            if not self._offered(state.span.start, state.span.stop)
        ]

    def _seats_of(self, caller: NodeId) -> list[SeatState]:
        return [state for state in self._seats.values() if state.caller == caller]

    def _on_step(self, arrived: Arrived) -> None:
        """Look before anything is kept: what cannot be used does not hold its segments."""
        peer, message = arrived.peer, arrived.message
        seat = Seat(message.session, message.start)
        state = self._seats.get(seat)
        if state is None:
            now_s = self._clock.monotonic_s()
            if peer == message.caller or self._strangers.take(peer, now_s):
                fail, error = self._outbox.fail, _unknown(seat)
                self._tasks.start(peer, fail, message.caller, seat, message.step, error)
        elif len(message.spent) >= HOPS_MAX:
            fault = PeerFault(f"a step that {len(message.spent)} nodes have signed")
            self._tasks.start(peer, self._refuse, seat, state, arrived, fault)
        elif self._queued_bytes(state.caller) + arrived.size_bytes > QUEUE_BYTES_MAX:
            self._leave(seat, state)
            full = StepFailed(f"more than {QUEUE_BYTES_MAX} bytes of one caller's steps wait here")
            self._tasks.start(peer, self._outbox.fail, state.caller, seat, message.step, full)
        else:
            if state.orphaned_at_s is not None:  # a step is a sign of life of its caller
                returned = peer == state.caller
                state.orphaned_at_s = None if returned else self._clock.monotonic_s()
            state.take(arrived)

    def _queued_bytes(self, caller: NodeId) -> int:
        return sum(state.queued_bytes for state in self._seats_of(caller))

    async def _serve(self, seat: Seat, state: SeatState, message: Open) -> None:
        """A seat's life: reserve its cache, then take one step after the other."""
        if state.closed:
            return  # its engine's close is over already, and nobody would undo an open
        try:
            seats = list(self._seats.values())
            pages = await self._engine_call(self._reserve, seat, state, message, seats)
        except ShardlineError as error:
            if not state.closed:
                self._leave(seat, state)
                await self._outbox.fail(state.caller, seat, None, error)
            if isinstance(error, PeerFault):
                self._post.hang_up(state.caller, error)
            return
        if not state.closed:
            opened = Opened(seat.session, self._duty.me, seat.start, pages)
            await self._outbox.tell(state.caller, opened)
        while (arrived := await state.next_step()) is not None:
            await self._take(seat, state, arrived)

    async def _take(self, seat: Seat, state: SeatState, arrived: Arrived) -> None:
        """The step that is due is computed, an earlier one answered again, a later one refused."""
        step, attach = arrived.message.step, arrived.message.attach
        if attach and step == 1 and not state.expected:
            try:
                await self._engine_call(self._engine.attach, seat, attach)
            except ShardlineError as error:
                if not state.closed:
                    await self._outbox.fail(state.caller, seat, step, error)
                return
            state.expected, state.attached = 1, attach
        if step == state.expected:
            await self._step(seat, state, arrived)
        elif step > state.expected:
            gap = SessionUnknown(f"steps from {state.expected} on are missing here")
            await self._outbox.fail(state.caller, seat, step, gap)
        elif not arrived.message.replay:
            try:
                await self._outbox.send_again(seat, state)
            except JournalLost as error:
                await self._outbox.fail(state.caller, seat, step, error)

    async def _step(self, seat: Seat, state: SeatState, arrived: Arrived) -> None:
        message = arrived.message
        self._computing += 1
        try:
            done = await self._rounds.run(seat, state, arrived)
        except PeerFault as error:
            await self._refuse(seat, state, arrived, error)
            return
        except ShardlineError as error:
            if state.closed:
                return
            if isinstance(error, StepFailed):  # its cache is spoilt
                self._leave(seat, state)
            await self._outbox.fail(state.caller, seat, message.step, error)
            return
        finally:
            self._computing -= 1
        if state.closed:
            return
        state.expected = message.step + 1
        state.behind, state.slowest_us = done.behind, message.slowest_us
        out, compute_us = done.out, int(done.compute_s * 1e6)
        sent = out.size_bytes, out.wire, out.saved_bytes, done.beside
        state.last_spent = [*message.spent, Spent(short(self._duty.me), compute_us, *sent)]
        await self._outbox.send_on(seat, state, message.step, out.segments, replayed=message.replay)

    async def _reroute(self, peer: NodeId, message: Reroute) -> None:
        seat = Seat(message.session, message.start)
        state = self._seats.get(seat)
        try:
            if state is None or state.caller != peer or state.next is None:
                raise _unknown(seat)
            if message.also:
                await self._outbox.send_ahead(seat, state, message)
            else:
                await self._outbox.send_all_to(seat, state, message)
        except ShardlineError as error:
            await self._outbox.fail(peer, seat, None, error)

    async def _refuse(
        self, seat: Seat, state: SeatState, arrived: Arrived, fault: PeerFault
    ) -> None:
        """End a seat whose steps break the protocol, and cut its caller off.

        A node that only hands on what its caller sent is not to blame: other callers need it.
        """
        self._leave(seat, state)
        await self._outbox.fail(state.caller, seat, arrived.message.step, fault)
        if arrived.peer == state.caller:
            self._post.hang_up(arrived.peer, fault)
            return
        hands = short(state.caller), short(arrived.peer)
        _log.warning("ended a session of node %s that node %s handed on: %s", *hands, fault)

    def _leave(self, seat: Seat, state: SeatState) -> None:
        """Forget a seat here and free its cache; later steps find it unknown."""
        if self._seats.get(seat) is state:
            del self._seats[seat]
            state.close()
            self._left.set()
            self._outbox.forget(seat)
            self._rounds.drop(seat)
            self._thread.submit(self._engine.close, seat)  # before any later call of the engine

    def _reserve(self, seat: Seat, state: SeatState, message: Open, taken: list[SeatState]) -> int:
        """On the engine's thread: a seat's part of the cache, if its caller may have it.

        Gives how many pages of its prefix are kept here for that caller.
        """
        named = Named(message.caller, tuple(message.prefix))
        rows, tokens, now_s = message.batch, message.tokens, self._clock.monotonic_s()
        with self._shares.at(self._engine.report().cache_tokens_total, state, taken, now_s):
            return self._engine.open(
                seat, state.span, rows=rows, tokens=tokens, now_s=now_s, named=named
            )

    async def _engine_call(self, work: Callable[..., T], *args: object) -> T:
        """As `_call`; whatever goes wrong there is an error that can be told to a caller."""
        try:
            return await self._call(work, *args)
        except ShardlineError:
            raise
        except Exception as error:  # (a task's supervisor: the node serves on)
            _log.warning("a step failed", exc_info=True)
            reason = f"{type(error).__name__}: {error}"
            raise StepFailed(f"{self._held()}: {reason}") from error

    async def _call(self, work: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)


def _unknown(seat: Seat) -> SessionUnknown:
    return SessionUnknown(f"session {seat.session[:8]} has no seat at block {seat.start} here")
