"""The span engine: one node's blocks, the sessions that use them, and the cache they may fill.

A step is a pure call on tensors. The engine never waits and never looks at a clock: whoever owns it
passes the time in, and calls it from one thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from shardline.core.errors import CacheFull, PeerFault, SessionUnknown

if TYPE_CHECKING:
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

    def run(self, crossing: Crossing, cache: Cache) -> Crossing | Returned:
        """The blocks' work on what crosses into them; fills `cache`."""
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

    def hold(self, span: RunsBlocks, *, cache_tokens: int) -> None:
        """From now on sessions open on these blocks; those that are open keep theirs.

        They keep their reservations too, even if those are more than `cache_tokens`.
        """
        self._span = span
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
        part = self._span.part(span)
        self._sessions[seat] = _Session(part, part.new_cache(), rows, tokens, 0, now_s)

    def step(self, seat: Seat, crossing: Crossing, *, now_s: float) -> Crossing | Returned:
        """Run one step through the session's blocks: what crosses in, and what goes on.

        Raises SessionUnknown, CacheFull beyond the reservation, PeerFault for what does not fit the
        model, StepFailed when a block fails; after the last two the session's cache is spoilt.
        """
        state = self._sessions.get(seat)
        if state is None:
            raise SessionUnknown(f"session {seat.session[:8]} has no seat here")
        filled = state.filled + crossing.tokens
        if crossing.batch != state.rows or filled > state.tokens:
            raise CacheFull(
                f"a step to {crossing.batch} x {filled} tokens, "
                f"but {state.rows} x {state.tokens} were reserved"
            )
        state.used_at_s = now_s
        state.filled = filled
        return state.span.run(crossing, state.cache)

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
