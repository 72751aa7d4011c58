"""The span engine: one node's blocks, the sessions that use them, and the cache they may fill.

A step is a pure call on tensors. The engine never waits and never looks at a clock: whoever owns it
passes the time in, and calls it from one thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from shardline.core.errors import CacheFull, PeerFault, SessionUnknown, ShardlineError
from shardline.model import PAGE_TOKENS
from shardline.runtime.prefixes import Named, Prefixes, Stretches, first_of, length

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import Cache

    from shardline.core.ids import Seat
    from shardline.core.spans import Span
    from shardline.model import AnyCrossing, Pages, Returned

__all__ = ["EngineReport", "RunsBlocks", "SpanEngine"]

SESSION_IDLE_S = 300.0
"""A session that nobody steps for this long gives its cache back. Longer keeps a chat warm while
its person thinks; shorter frees a crashed caller's memory sooner."""

PREFIX_IDLE_S = 900.0
"""A prefix that no session began with for this long goes, though there may be room for it: its
caller has gone, or talks of something else."""

SESSIONS_MAX = 1_024
"""However few tokens they reserve: each session costs memory beside its cache."""


@runtime_checkable
class RunsBlocks(Protocol):
    """What the engine asks of a loaded span.

    Steps and caches are of its own kind: whoever owns the engine reads what comes accordingly.
    """

    def part(self, span: Span) -> RunsBlocks:
        """The same blocks seen as a shorter span; the weights are shared."""
        ...

    def new_cache(self, tokens: int, shared: Sequence[Pages] = ()) -> Cache | None:
        """A session's cache for `tokens` tokens of each row, the first of them in shared pages.

        None where nothing is kept from step to step.
        """
        ...

    def pages(self, cache: Any, first: int, stop: int) -> Pages | None:  # noqa: ANN401 - its own
        """These tokens of a cache as pages of their own; None where they cannot be shared."""
        ...

    def truncate(self, cache: Any, tokens: int) -> None:  # noqa: ANN401 - as above
        """Forget all tokens but the first so many; raises ValueError where that cannot be done."""
        ...

    def check(self, cache: Any, tokens: int) -> None:  # noqa: ANN401 - as above
        """Raise AssertionError unless the cache is in order and holds so many tokens."""
        ...

    def run_together(
        self, steps: Sequence[tuple[Any, Any]]
    ) -> Sequence[AnyCrossing | Returned | ShardlineError]:
        """The blocks' work on a step of each of several sessions; fills each one's cache.

        What goes wrong with one of them is its own result, and no other's.
        """
        ...

    def pieces(self, crossing: Any, cache: Any, tokens: int) -> Sequence[AnyCrossing]:  # noqa: ANN401
        """The same step in several of at most so many tokens; whole where it cannot be cut."""
        ...

    def joined(self, crossing: Any, parts: Sequence[Any]) -> AnyCrossing | Returned:  # noqa: ANN401
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
    blocks: Span
    cache: Cache | None
    rows: int
    tokens: int
    filled: int
    used_at_s: float
    named: Named | None = None
    """What its first pages will be kept as, once they are filled."""
    held: Stretches = ()
    """Kept pages that it begins with, or may still choose to."""
    attached: int = 0
    """Tokens in pages that are not its own."""
    spoilt: bool = False

    @property
    def reserved(self) -> int:
        """Cache tokens set aside: every row may grow to the session's full length."""
        return self.rows * self.tokens - self.attached


class SpanEngine:
    """Sessions over one span; not thread-safe.

    Invariant: the reservations of open sessions and the kept prefixes, each counted once, never
    exceed `cache_tokens`.
    """

    def __init__(self, span: RunsBlocks, *, cache_tokens: int) -> None:
        self._span = span
        self._cache_tokens = cache_tokens
        self._sessions: dict[Seat, _Session] = {}
        self._parts: dict[Span, RunsBlocks] = {}
        """Sessions on the same blocks share their part, and so their steps."""
        self._prefixes = Prefixes()

    def hold(self, span: RunsBlocks, *, cache_tokens: int) -> None:
        """From now on sessions open on these blocks; those that are open keep theirs.

        They keep their reservations too, even if those are more than `cache_tokens`. Prefixes of
        the old blocks are found no more.
        """
        self._span = span
        self._parts = {}
        self._prefixes.forget()
        for state in self._sessions.values():
            state.named = None
        self._cache_tokens = max(cache_tokens, self._reserved() + self._prefixes.tokens)

    def open(  # noqa: PLR0913  (what a session is, and who asks)
        self,
        seat: Seat,
        span: Span,
        *,
        rows: int,
        tokens: int,
        now_s: float,
        named: Named | None = None,
    ) -> int:
        """Reserve the cache of `span` for `rows` sequences of at most `tokens` tokens each.

        Gives how many of the `named` pages are kept here, for `attach` before the first step; those
        that are not will be, once they are filled. Raises CacheFull when that many tokens are not
        free, PeerFault for nonsense.
        """
        if rows < 1 or tokens < 1 or seat in self._sessions:
            raise PeerFault(f"a session of {rows} x {tokens} tokens, or one that is open already")
        if len(self._sessions) >= SESSIONS_MAX:
            raise CacheFull(f"{SESSIONS_MAX} sessions are open here, and no more are taken")
        named = named if rows == 1 and named is not None and named.digests else None
        held = () if named is None else self._prefixes.find(named, span)
        self._prefixes.hold(held, now_s)
        if not self._make_room(rows * tokens):  # maybe without what it could begin with
            self._prefixes.release(held)
            held = ()
            if not self._make_room(rows * tokens):
                free = self.report().cache_tokens_free
                raise CacheFull(f"{rows * tokens} cache tokens were asked, {free} are free")
        if span not in self._parts:
            self._parts[span] = self._span.part(span)
        part = self._parts[span]
        state = _Session(part, span, part.new_cache(tokens), rows, tokens, 0, now_s, named, held)
        self._sessions[seat] = state
        return length(held)

    def attach(self, seat: Seat, pages: int) -> None:
        """Let a session that was not stepped yet begin with so many of the pages `open` told of.

        Raises SessionUnknown if it cannot.
        """
        state = self._sessions.get(seat)
        if state is None or state.filled or not 0 < pages <= length(state.held):
            raise SessionUnknown(f"{pages} kept pages cannot be attached here")
        if pages * PAGE_TOKENS >= state.tokens:
            raise SessionUnknown(f"{pages} kept pages leave no room for a step")
        held = first_of(state.held, pages)
        self._prefixes.release(state.held[len(held) :])
        state.held, state.attached = held, pages * PAGE_TOKENS
        state.filled = state.attached
        shared = [run.pages.first(its) for run, its in held]
        state.cache = state.span.new_cache(state.tokens, shared)

    def truncate(self, seat: Seat, tokens: int) -> None:
        """Let a session forget all tokens but the first so many, as if it had never seen the rest.

        Raises SessionUnknown, PeerFault for more than it holds or a model that cannot forget, and
        CacheFull if it parts from shared pages and there is no room for as many of its own.
        """
        state = self._sessions.get(seat)
        if state is None:
            raise SessionUnknown(f"session {seat.session[:8]} has no seat here")
        if not 0 <= tokens <= state.filled:
            raise PeerFault(f"{tokens} tokens of {state.filled} are to be kept")
        attached = min(state.attached, tokens - tokens % PAGE_TOKENS)
        if not self._make_room(state.attached - attached):
            raise CacheFull(f"no room for {state.attached - attached} tokens of its own")
        try:
            state.span.truncate(state.cache, tokens)
        except ValueError as error:
            raise PeerFault(f"this session cannot be truncated: {error}") from error
        held = first_of(state.held, attached // PAGE_TOKENS)
        self._prefixes.release(state.held[len(held) :])
        state.held, state.attached, state.filled = held, attached, tokens
        state.named = None  # other tokens may come in their place

    def step(self, seat: Seat, crossing: AnyCrossing, *, now_s: float) -> AnyCrossing | Returned:
        """One session's step; raises what `steps` gives back as an error."""
        (found,) = self.steps([(seat, crossing)], now_s=now_s)
        if isinstance(found, ShardlineError):
            raise found
        return found

    def steps(
        self, asked: Sequence[tuple[Seat, AnyCrossing]], *, now_s: float
    ) -> list[AnyCrossing | Returned | ShardlineError]:
        """A step of each of these sessions, each once: what crosses in, and what goes on.

        Those on the same blocks are run together. A step's result is SessionUnknown, CacheFull
        beyond its reservation, PeerFault for what does not fit the model, or StepFailed when a
        block fails; after the last two its session's cache is spoilt.
        """
        found: list[AnyCrossing | Returned | ShardlineError | None] = [None] * len(asked)
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
            results = states[0].span.run_together(steps)
            for index, state, result in zip(indices, states, results, strict=True):
                found[index] = result
                state.spoilt |= isinstance(result, ShardlineError)
                self._keep(state)
        return [result for result in found if result is not None]

    def pieces(self, seat: Seat, crossing: AnyCrossing, tokens: int) -> list[AnyCrossing]:
        """A step in pieces of at most so many tokens; whole if it cannot be cut, or cannot be run.

        They are steps of the session: nothing else of it may come between them.
        """
        state = self._sessions.get(seat)
        if state is None or self._refusal(state, crossing) is not None:
            return [crossing]
        return list(state.span.pieces(crossing, state.cache, tokens))

    def joined(
        self, seat: Seat, crossing: AnyCrossing, parts: Sequence[AnyCrossing | Returned]
    ) -> AnyCrossing | Returned:
        """What a step gives, of what its pieces gave; the session must be open."""
        return self._sessions[seat].span.joined(crossing, parts)

    def _take(self, seat: Seat, crossing: AnyCrossing, now_s: float) -> ShardlineError | None:
        """Count a step's tokens before it is run, or say why it cannot be."""
        state = self._sessions.get(seat)
        if state is None:
            return SessionUnknown(f"session {seat.session[:8]} has no seat here")
        refusal = self._refusal(state, crossing)
        if refusal is None:
            if not state.filled:  # it begins without them
                self._prefixes.release(state.held)
                state.held = ()
            state.used_at_s = now_s
            state.filled += crossing.cache_tokens
        return refusal

    @staticmethod
    def _refusal(state: _Session, crossing: AnyCrossing) -> CacheFull | None:
        filled = state.filled + crossing.cache_tokens
        if crossing.batch == state.rows and filled <= state.tokens:
            return None
        return CacheFull(
            f"a step to {crossing.batch} x {filled} tokens, "
            f"but {state.rows} x {state.tokens} were reserved"
        )

    def close(self, seat: Seat) -> None:
        """Forget a session and free its cache; unknown ones are no matter."""
        state = self._sessions.pop(seat, None)
        if state is not None:
            self._prefixes.release(state.held)

    def expire(self, now_s: float) -> list[Seat]:
        """Close the sessions that were idle for SESSION_IDLE_S and name them."""
        idle = [
            seat
            for seat, state in self._sessions.items()
            if now_s - state.used_at_s > SESSION_IDLE_S
        ]
        for seat in idle:
            self.close(seat)
        self._prefixes.expire(now_s - PREFIX_IDLE_S)
        return idle

    def report(self) -> EngineReport:
        """How full the engine is now; any thread may ask."""
        total = self._cache_tokens
        free = total - self._reserved() - self._prefixes.held_tokens
        return EngineReport(len(self._sessions), total, free)

    def check_integrity(self) -> None:
        """Raise AssertionError if an invariant is broken; tests call it after every step."""
        self._prefixes.check_integrity()
        assert self._prefixes.held_by([state.held for state in self._sessions.values()])
        assert 0 <= self._reserved() + self._prefixes.tokens <= self._cache_tokens
        for state in self._sessions.values():
            assert state.attached <= state.filled <= state.tokens
            assert state.attached in {0, length(state.held) * PAGE_TOKENS}
            if not state.spoilt:
                state.span.check(state.cache, state.filled)

    def _make_room(self, tokens: int) -> bool:
        """Let idle prefixes go until so many tokens are free; whether they are."""
        free = self._cache_tokens - self._reserved() - self._prefixes.tokens
        return free >= tokens or free + self._prefixes.free(tokens - free) >= tokens

    def _keep(self, state: _Session) -> None:
        """Keep a session's named pages once it has filled them, as far as there is room."""
        named = state.named
        if named is None or state.spoilt or state.filled < len(named.digests) * PAGE_TOKENS:
            return
        state.named = None
        before, now_s = self._prefixes.find(named, state.blocks), state.used_at_s
        first = length(before) * PAGE_TOKENS
        self._prefixes.hold(before, now_s)  # it must not go to make room
        wanted = len(named.digests) * PAGE_TOKENS - first
        self._make_room(wanted)
        free = self._cache_tokens - self._reserved() - self._prefixes.tokens
        stop = first + min(wanted, free - free % PAGE_TOKENS)
        if stop > first:
            pages = state.span.pages(state.cache, first, stop)
            if pages is not None:
                self._prefixes.keep(named, state.blocks, pages, before, now_s)
        self._prefixes.release(before)

    def _reserved(self) -> int:
        return sum(state.reserved for state in list(self._sessions.values()))
