"""The engine's one thread, and the steps that wait for it: it takes them in rounds, many at once.

Whoever wants a step awaits it here. While a round is run more steps gather, and some a moment
longer (`gathering.py`); the next round takes what the scheduler chooses of them. Seats that open
and close come between two rounds.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shardline.codec import Reader
from shardline.core.errors import SessionUnknown, ShardlineError, StepFailed
from shardline.model import Crossing
from shardline.node.gathering import Gathering
from shardline.runtime import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Executor

    import torch

    from shardline.core.clock import Clock
    from shardline.core.ids import NodeId, Seat
    from shardline.core.segments import Segment
    from shardline.core.spans import Span
    from shardline.model import AnyCrossing, Returned
    from shardline.node.seats import Arrived, SeatState
    from shardline.node.tally import Tally
    from shardline.node.wiring import Written
    from shardline.runtime import SpanEngine
    from shardline.wire import Step

__all__ = ["Computed", "Rounds"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Computed:
    """A step's outputs as bytes, and what it took."""

    out: Written
    compute_s: float
    """All rounds that it was part of."""
    beside: int
    """Tokens of other sessions in its last round."""
    behind: int = 0
    """Steps of its last round that are told after it, and go to the same node."""


@dataclass(slots=True)
class _Asked:
    seat: Seat
    state: SeatState
    message: Step
    peer: NodeId
    segments: Sequence[Segment]
    future: asyncio.Future[Computed]
    came_s: float
    tokens: int = 0
    compute_s: float = 0.0

    @property
    def span(self) -> Span:
        """The blocks that it goes through."""
        return self.state.span


class Rounds:
    """Steps on their way through the engine; one at a time of each seat."""

    def __init__(
        self,
        engine: SpanEngine,
        thread: Executor,
        clock: Clock,
        tally: Tally,
        read: Callable[[Any], AnyCrossing] = Crossing.from_tree,
    ) -> None:
        self._scheduler = Scheduler(engine)
        self._thread = thread
        self._clock = clock
        self._tally = tally
        self._read = Reader(read, _again)
        self._lock = threading.Lock()
        self._new: list[_Asked] = []
        """What the next round finds; behind the lock."""
        self._due = False
        """A round is submitted and has not begun; behind the lock."""
        self._taken: dict[Seat, _Asked] = {}
        """What the scheduler has; on the engine's thread only, as all below."""
        self._gathering = Gathering()
        self._patient = False
        """The next round waits for others, and a timer will end that."""

    async def run(self, seat: Seat, state: SeatState, arrived: Arrived) -> Computed:
        """One step of this seat: bytes to tensors, the blocks' work, tensors to bytes.

        Raises what the engine's `steps` gives back, PeerFault for bytes that are no step, and
        SessionUnknown once the seat is dropped.
        """
        if state.closed:  # and so it was dropped before
            raise _left(seat)
        future: asyncio.Future[Computed] = asyncio.get_running_loop().create_future()
        came = arrived.message, arrived.peer, arrived.segments
        asked = _Asked(seat, state, *came, future, self._clock.monotonic_s())
        with self._lock:
            self._new.append(asked)
        self._wake()
        return await asked.future

    def drop(self, seat: Seat) -> None:
        """Let a seat's step, begun or not, be nobody's; call it on the event loop."""
        with self._lock:
            gone = [asked for asked in self._new if asked.seat == seat]
            self._new = [asked for asked in self._new if asked.seat != seat]
        for asked in gone:
            _settle(asked, _left(seat))
        self._thread.submit(self._forget, seat)

    def _wake(self) -> None:
        with self._lock:
            if self._due:
                return
            self._due = True
        self._thread.submit(self._round)

    def _forget(self, seat: Seat) -> None:
        self._scheduler.drop(seat)
        self._gathering.gone(seat)
        asked = self._taken.pop(seat, None)
        if asked is not None:
            self._tell([(asked, _left(seat))])
        if self._patient:
            self._lose_patience()  # it may have waited for this one

    def _round(self) -> None:
        """On the engine's thread: take what is new, run a round, tell who waits for it."""
        with self._lock:
            self._due = False
            new, self._new = self._new, []
        told = self._take(new)
        ran = bool(self._taken) and not self._gathers()
        if ran:
            told += self._run()
        self._tell(told)
        if ran and self._taken:
            self._wake()

    def _take(self, new: Sequence[_Asked]) -> list[tuple[_Asked, Computed | ShardlineError]]:
        """Let new steps wait for the engine; those that are none, and why."""
        told: list[tuple[_Asked, Computed | ShardlineError]] = []
        for asked in new:
            try:
                crossing = self._read(asked.segments)
            except Exception as error:  # noqa: BLE001  (a task's supervisor)
                told.append((asked, _failure(error)))
                continue
            asked.segments = ()
            asked.tokens = crossing.batch * crossing.tokens
            self._taken[asked.seat] = asked
            self._scheduler.add(asked.seat, crossing)
            if isinstance(crossing, Crossing):  # others run alone, so waiting gathers nothing
                slowest_s, first = asked.message.slowest_us / 1e6, not crossing.start
                self._gathering.came(asked.seat, asked.came_s, slowest_s=slowest_s, first=first)
                self._gathering.announced(asked.peer, asked.message.behind)
        return told

    def _gathers(self) -> bool:
        """Whether the next round waits for others; they, or a timer, will wake us."""
        first = next(iter(self._taken.values()))
        wait_s = self._gathering.wait_s(self._clock.monotonic_s(), len(first.span))
        if not wait_s:
            self._patient = False
            self._gathering.begun()
            return False
        if not self._patient:
            self._patient = True
            loop = first.future.get_loop()
            loop.call_soon_threadsafe(loop.call_later, wait_s, self._late)
        return True

    def _late(self) -> None:
        if self._patient:  # else there may be no thread any more
            self._thread.submit(self._lose_patience)

    def _lose_patience(self) -> None:
        """Look anew whether to wait."""
        self._patient = False
        self._round()

    def _run(self) -> list[tuple[_Asked, Computed | ShardlineError]]:
        started_s = time.perf_counter()
        try:
            writers = self._gathering.most(self._scheduler.writers)
            done = self._scheduler.round(now_s=self._clock.monotonic_s(), writers=writers)
        except Exception as error:  # noqa: BLE001  (a task's supervisor)
            failure = _failure(error)
            lost, self._taken = self._taken, {}
            for seat in lost:
                self._scheduler.drop(seat)
            return [(asked, failure) for asked in lost.values()]
        took_s, now_s = time.perf_counter() - started_s, self._clock.monotonic_s()
        if not any(isinstance(found, ShardlineError) for _, found in done):
            blocks = max(len(self._taken[seat].span) for seat in self._scheduler.last_seats)
            self._gathering.ended(took_s, blocks)
        tokens = self._scheduler.last_tokens
        told: list[tuple[_Asked, Computed | ShardlineError]] = []
        for seat in self._scheduler.last_seats:
            self._taken[seat].compute_s += took_s
        going = [self._goes_to(seat, found) for seat, found in done]  # once: it may be rerouted
        behind = Counter(going)
        for (seat, found), to in zip(done, going, strict=True):
            asked = self._taken.pop(seat)
            self._gathering.left(seat, now_s)
            behind[to] -= 1
            told.append((asked, self._computed(asked, found, tokens, behind[to])))
        return told

    def _goes_to(self, seat: Seat, found: object) -> NodeId | None:
        """The node that gets this; None is none."""
        return None if isinstance(found, ShardlineError) else self._taken[seat].state.next

    def _computed(
        self,
        asked: _Asked,
        found: AnyCrossing | Returned | ShardlineError,
        tokens: int,
        behind: int,
    ) -> Computed | ShardlineError:
        if isinstance(found, ShardlineError):
            return found
        self._tally.add(asked.tokens, len(asked.span), asked.compute_s)
        try:
            out = asked.state.wiring.write(found)
        except Exception as error:  # noqa: BLE001  (a task's supervisor)
            return _failure(error)
        return Computed(out, asked.compute_s, max(0, tokens - asked.tokens), behind)

    def _tell(self, told: Sequence[tuple[_Asked, Computed | ShardlineError]]) -> None:
        """On the engine's thread: hand results to who awaits them."""
        if told:
            loop = told[0][0].future.get_loop()  # a node has one
            loop.call_soon_threadsafe(_settle_all, told)


def _again(step: AnyCrossing, tensors: Mapping[int, torch.Tensor]) -> AnyCrossing | None:
    return step.again(tensors) if isinstance(step, Crossing) else None


def _settle_all(results: Sequence[tuple[_Asked, Computed | ShardlineError]]) -> None:
    for asked, result in results:
        _settle(asked, result)


def _settle(asked: _Asked, result: Computed | ShardlineError) -> None:
    if asked.future.done():
        return
    if isinstance(result, ShardlineError):
        asked.future.set_exception(result)
    else:
        asked.future.set_result(result)


def _left(seat: Seat) -> SessionUnknown:
    return SessionUnknown(f"session {seat.session[:8]} has left this node")


def _failure(error: Exception) -> ShardlineError:
    if isinstance(error, ShardlineError):
        return error
    _log.warning("a step failed", exc_info=error)
    return StepFailed(f"{type(error).__name__}: {error}")
