"""The span engine: one node's blocks, the sessions that use them, and the cache they may fill.

A step is a pure call on tensors. The engine never waits and never looks at a clock: whoever owns it
passes the time in, and calls it from one thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from shardline.core.errors import CacheFull, PeerFault, SessionUnknown, ShardlineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import Cache

    from shardline.core.ids import Seat
    from shardline.core.spans import Span
    from shardline.model import Crossing, Returned

__all__ = ["EngineReport", "RunsBlocks", "SpanEngine"]

SESSION_IDLE_S = 300.0
"""A session that nobody steps for this long gives its cache back. Longer keeps a chat warm while
its person thinks; shorter frees a crashed caller's memory sooner."""

SESSIONS_MAX = 1_024
"""However few tokens they reserve: each session costs memory beside its cache."""


@runtime_checkable
class RunsBlocks(Protocol):
    """What the engine asks of a loaded span."""

    def part(self, span: Span) -> RunsBlocks:
        """The same blocks seen as a shorter span; the weights are shared."""
        ...

    def new_cache(self) -> Cache:
        """An empty cache for one session of this span."""
        ...

    def run_together(
        self, steps: Sequence[tuple[Crossing, Cache]]
    ) -> list[Crossing | Returned | ShardlineError]:
        """The blocks' work on a step of each of several sessions; fills each one's cache.

        What goes wrong with one of them is its own result, and no other's.
        """
        ...

    def pieces(self, crossing: Crossing, cache: Cache, tokens: int) -> list[Crossing]:
        """The same step in several of at most so many tokens; whole where it cannot be cut."""
        ...

    def joined(
        self, crossing: Crossing, parts: Sequence[Crossing | Returned]
    ) -> Crossing | Returned:
        """What the step gives, of what its pieces gave."""
        ...


@dataclass(frozen=True, slots=True)
class EngineReport:
    """How full the engine is."""

    sessions: int
    cache_tokens_total: int
    cache_tokens_free: int


@dataclass(slots=True)
class _Session:
    span: RunsBlocks
    cache: Cache
    rows: int
    tokens: int
    filled: int
    used_at_s: float

    @property
    def reserved(self) -> int:
        """Cache tokens set aside: every row may grow to the session's full length."""
        return self.rows * self.tokens


class SpanEngine:
    """Sessions over one span; not thread-safe.

    Invariant: the reservations of open sessions never exceed `cache_tokens`.
    """

    def __init__(self, span: RunsBlocks, *, cache_tokens: int) -> None:
        self._span = span
        self._cache_tokens = cache_tokens
        self._sessions: dict[Seat, _Session] = {}
        self._parts: dict[Span, RunsBlocks] = {}
        """Sessions on the same blocks share their part, and so their steps."""

    def hold(self, span: RunsBlocks, *, cache_tokens: int) -> None:
        """From now on sessions open on these blocks; those that are open keep theirs.

        They keep their reservations too, even if those are more than `cache_tokens`.
        """
        self._span = span
        self._parts = {}
        self._cache_tokens = max(cache_tokens, self._reserved())

    def open(self, seat: Seat, span: Span, *, rows: int, tokens: int, now_s: float) -> None:
        """Reserve the cache of `span` for `rows` sequences of at most `tokens` tokens each.

        Raises CacheFull when that many tokens are not free, PeerFault for nonsense.
        """
        if rows < 1 or tokens < 1 or seat in self._sessions:
            raise PeerFault(f"a session of {rows} x {tokens} tokens, or one that is open already")
        if len(self._sessions) >= SESSIONS_MAX:
            raise CacheFull(f"{SESSIONS_MAX} sessions are open here, and no more are taken")
        free = self._cache_tokens - self._reserved()
        if rows * tokens > free:
            raise CacheFull(f"{rows * tokens} cache tokens were asked, {free} are free")
        if span not in self._parts:
            self._parts[span] = self._span.part(span)
        part = self._parts[span]
        self._sessions[seat] = _Session(part, part.new_cache(), rows, tokens, 0, now_s)

    def step(self, seat: Seat, crossing: Crossing, *, now_s: float) -> Crossing | Returned:
        """One session's step; raises what `steps` gives back as an error."""
        (found,) = self.steps([(seat, crossing)], now_s=now_s)
        if isinstance(found, ShardlineError):
            raise found
        return found

    def steps(
        self, asked: Sequence[tuple[Seat, Crossing]], *, now_s: float
    ) -> list[Crossing | Returned | ShardlineError]:
        """A step of each of these sessions, each once: what crosses in, and what goes on.

        Those on the same blocks are run together. A step's result is SessionUnknown, CacheFull
        beyond its reservation, PeerFault for what does not fit the model, or StepFailed when a
        block fails; after the last two its session's cache is spoilt.
        """
        found: list[Crossing | Returned | ShardlineError | None] = [None] * len(asked)
        together: dict[int, list[int]] = {}
        for index, (seat, crossing) in enumerate(asked):
            refusal = self._take(seat, crossing, now_s)
            if refusal is None:
                together.setdefault(id(self._sessions[seat].span), []).append(index)
            found[index] = refusal
        for indices in together.values():
            states = [self._sessions[asked[index][0]] for index in indices]
            steps = [
                (asked[index][1], state.cache) for index, state in zip(indices, states, strict=True)
            ]
            for index, result in zip(indices, states[0].span.run_together(steps), strict=True):
                found[index] = result
        return [result for result in found if result is not None]

    def pieces(self, seat: Seat, crossing: Crossing, tokens: int) -> list[Crossing]:
        """A step in pieces of at most so many tokens; whole if it cannot be cut, or cannot be run.

        They are steps of the session: nothing else of it may come between them.
        """
        state = self._sessions.get(seat)
        if state is None or self._refusal(state, crossing) is not None:
            return [crossing]
        return state.span.pieces(crossing, state.cache, tokens)

    def joined(
        self, seat: Seat, crossing: Crossing, parts: Sequence[Crossing | Returned]
    ) -> Crossing | Returned:
        """What a step gives, of what its pieces gave; the session must be open."""
        return self._sessions[seat].span.joined(crossing, parts)

    def _take(self, seat: Seat, crossing: Crossing, now_s: float) -> ShardlineError | None:
        """Count a step's tokens before it is run, or say why it cannot be."""
        state = self._sessions.get(seat)
        if state is None:
            return SessionUnknown(f"session {seat.session[:8]} has no seat here")
        refusal = self._refusal(state, crossing)
        if refusal is None:
            state.used_at_s = now_s
            state.filled += crossing.tokens
        return refusal

    @staticmethod
    def _refusal(state: _Session, crossing: Crossing) -> CacheFull | None:
        filled = state.filled + crossing.tokens
        if crossing.batch == state.rows and filled <= state.tokens:
            return None
        return CacheFull(
            f"a step to {crossing.batch} x {filled} tokens, "
            f"but {state.rows} x {state.tokens} were reserved"
        )

    def close(self, seat: Seat) -> None:
        """Forget a session and free its cache; unknown ones are no matter."""
        self._sessions.pop(seat, None)

    def expire(self, now_s: float) -> list[Seat]:
        """Close the sessions that were idle for SESSION_IDLE_S and name them."""
        idle = [
            seat
            for seat, state in self._sessions.items()
            if now_s - state.used_at_s > SESSION_IDLE_S
        ]
        for seat in idle:
            self.close(seat)
        return idle

    def report(self) -> EngineReport:
        """How full the engine is now; any thread may ask."""
        total = self._cache_tokens
        return EngineReport(len(self._sessions), total, total - self._reserved())

    def check_integrity(self) -> None:
        """Raise AssertionError if an invariant is broken; tests call it after every step."""
        assert 0 <= self._reserved() <= self._cache_tokens
        assert all(state.filled <= state.tokens for state in self._sessions.values())

    def _reserved(self) -> int:
        return sum(state.reserved for state in list(self._sessions.values()))
