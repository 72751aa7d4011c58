"""Between the model's own forward and the swarm: one remote step for each call of the chain.

Transformers' `generate` runs in the caller's thread and knows nothing of nodes; its cache object
stands for a session. The network lives on an event loop in a thread of its own.
"""

from __future__ import annotations

import asyncio
import functools
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardline.client.times import StepTimes
from shardline.codec import Meter, pack, unpack
from shardline.core.errors import ShardlineError
from shardline.model import PAGE_TOKENS, Crossing, Returned, led_by, split

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyio.from_thread import BlockingPortal
    from transformers import Cache

    from shardline.client.prefixes import Prefix
    from shardline.client.session import RemoteSession
    from shardline.client.sessions import Sessions
    from shardline.core.segments import Segment
    from shardline.swarm import Hop
    from shardline.wire import Spent

    _Begun = tuple[RemoteSession, int, Crossing]
    """A session, the pages that its nodes hold of its first step, and that step."""
    _Came = tuple[Returned, Sequence[Spent], float]
    """What a step gave, what each node spent on it, and how long it was on its way."""

__all__ = ["Runner"]


@dataclass(frozen=True, slots=True)
class _Sent:
    """A step as it goes to the first node."""

    session: RemoteSession
    crossing: Crossing
    shared_tokens: int
    meter: Meter
    segments: Sequence[memoryview]
    started_s: float


class Runner:
    """Runs a model's blocks on the swarm; a port of `load_ends` (RunBlocks)."""

    def __init__(
        self,
        portal: BlockingPortal,
        sessions: Sessions,
        *,
        begin: Callable[[int], RemoteSession],
        tokens: int,
    ) -> None:
        self._portal = portal
        self._sessions = sessions
        self._begin = begin
        self._by_cache: weakref.WeakKeyDictionary[Cache, RemoteSession] = (
            weakref.WeakKeyDictionary()
        )
        self._held: set[RemoteSession] = set()
        """Every session that is open: most caches are gone before somebody says `forget`."""
        self.prefix: Prefix | None = None
        """Of the prompt that is read next."""
        self.tokens = tokens
        """How many tokens a session that is opened now may hold."""
        self.chain: tuple[Hop, ...] = ()
        """Of the session that was stepped last."""
        self.chains: dict[int, tuple[Hop, ...]] = {}
        """By the first blocks of a model's chains, those of the sessions that were stepped last."""
        self.standbys: tuple[Hop, ...] = ()
        """Of the same session."""
        self.steps: list[StepTimes] = []
        """Every step since somebody last cleared it."""

    def __call__(self, cache: Cache | None, crossing: Crossing) -> Returned:
        """All blocks' work on the swarm; raises ChainBroken, NotCovered or CacheFull."""
        (returned,) = self.together([(cache, crossing)])
        return returned

    def together(self, asked: Sequence[tuple[Cache | None, Crossing]]) -> list[Returned]:
        """A step of each of these sessions, all on their way at once, for who has many.

        Raises what went wrong with the first of them, once all are over.
        """
        begun: list[_Begun] = []
        try:
            for cache, crossing in asked:
                begun.append((*self._session(cache, crossing), crossing))
            return self._steps(begun)
        finally:
            for (cache, _), (session, *_) in zip(asked, begun, strict=False):
                if cache is None:
                    self._portal.call(self._close, session)

    def _session(self, cache: Cache | None, crossing: Crossing) -> tuple[RemoteSession, int]:
        """What this cache stands for, and how many pages its nodes hold if it has just begun."""
        session = self._by_cache.get(cache) if cache is not None else None
        if session is not None:
            return session, 0
        names = self._names(crossing) if cache is not None else ()
        size = crossing.batch, self._wanted(cache, crossing)
        session, pages = self._portal.call(self._open, crossing.start, *size, names)
        if cache is not None:
            self._by_cache[cache] = session
        return session, pages

    def _wanted(self, cache: Cache | None, crossing: Crossing) -> int:
        """Tokens of each sequence for which a session that begins with this step is opened."""
        if cache is None:
            return crossing.cache_tokens
        if crossing.kept:  # what a decoder begins with is known only now, and all else comes on top
            return crossing.cache_tokens + self.tokens
        return max(crossing.tokens, self.tokens)

    def _names(self, crossing: Crossing) -> tuple[bytes, ...]:
        """What the first pages of a session that begins with this step are called."""
        known = self.prefix
        if known is None or (crossing.batch, crossing.tokens) != (1, known.prompt_tokens):
            return ()
        return known.digests

    def _begun(
        self, session: RemoteSession, crossing: Crossing, pages: int
    ) -> tuple[int, Crossing]:
        """How many tokens of a session's first step the nodes hold in pages, and its rest."""
        parts = split(crossing, pages * PAGE_TOKENS) if pages else None
        if parts is None:
            return 0, crossing
        known, rest = parts
        segments = pack(known.to_tree(), known.carried, Meter(session.encoder))
        session.begin(segments, pages, known.tokens)
        return known.tokens, rest

    def _steps(self, begun: Sequence[_Begun]) -> list[Returned]:
        """A step of each of these sessions; raises as `together` does."""
        sent = [self._packed(*one) for one in begun]
        came: list[_Came] = []
        for found in self._portal.call(self._all, sent):
            if isinstance(found, BaseException):
                raise found
            came.append(found)
        return [self._noted(one, *its) for one, its in zip(sent, came, strict=True)]

    async def _all(self, sent: Sequence[_Sent]) -> list[_Came | BaseException]:
        return await asyncio.gather(*map(self._go, sent), return_exceptions=True)

    async def _go(self, sent: _Sent) -> _Came:
        crossing, read = sent.crossing, functools.partial(self._read, sent.crossing)
        size = {"rows": crossing.batch, "tokens": crossing.cache_tokens}
        returned, spent = await sent.session.step(sent.segments, read, **size)
        return returned, spent, time.perf_counter() - sent.started_s

    def _packed(self, session: RemoteSession, pages: int, crossing: Crossing) -> _Sent:
        started_s = time.perf_counter()
        shared_tokens, crossing = self._begun(session, crossing, pages)
        meter = Meter(session.encoder)
        segments = pack(crossing.to_tree(), crossing.carried, meter)
        return _Sent(session, crossing, shared_tokens, meter, segments, started_s)

    def _noted(
        self, sent: _Sent, returned: Returned, spent: Sequence[Spent], wall_s: float
    ) -> Returned:
        """What came back, with the tokens that were not sent; notes how it went."""
        session, crossing, meter = sent.session, sent.crossing, sent.meter
        self.chain, self.standbys = session.chain, session.standbys
        self.chains[crossing.start] = session.chain
        self.steps.append(
            StepTimes(
                wall_s=wall_s,
                nodes_s=tuple(node.compute_us / 1e6 for node in spent),
                moved_bytes=sum(segment.nbytes for segment in sent.segments)
                + sum(node.sent_bytes for node in spent),
                saved_bytes=meter.saved_bytes + sum(node.saved_bytes for node in spent),
                wires=(meter.wire, *(node.wire for node in spent)),
                beside=max((node.beside for node in spent), default=0),
                shared_tokens=sent.shared_tokens,
            )
        )
        shared = sent.shared_tokens
        return led_by(shared, returned, crossing.tokens) if shared else returned

    def _read(self, sent: Crossing, segments: Sequence[Segment]) -> Returned:
        """What came back, if it can be the answer to what was sent; raises PeerFault if not."""
        returned = Returned.from_tree(unpack(segments))
        sent.check(returned)
        return returned

    def end(self, cache: Cache) -> None:
        """Close the session of this cache; none is no matter."""
        session = self._by_cache.pop(cache, None)
        if session is not None:
            self._portal.call(self._close, session)

    def forget(self, kept: Cache | None = None) -> None:
        """Close every session but that of `kept`, a cache which its owner goes on with."""
        stays = self._by_cache.get(kept) if kept is not None else None
        self._by_cache.clear()
        if kept is not None and stays is not None:
            self._by_cache[kept] = stays
        for session in self._held - {stays}:
            self._portal.call(self._close, session)

    async def _open(
        self, start: int, rows: int, tokens: int, names: Sequence[bytes]
    ) -> tuple[RemoteSession, int]:
        """A session on the chain that begins with this block, and how many pages of its first
        tokens the nodes hold."""
        session = self._begin(start)
        self._sessions.add(session)
        self._held.add(session)
        try:
            pages = await session.open(rows=rows, tokens=tokens, prefix=names)
        except ShardlineError:
            await self._close(session)
            raise
        return session, pages

    async def _close(self, session: RemoteSession) -> None:
        self._held.discard(session)
        self._sessions.remove(session)
        await session.close()
