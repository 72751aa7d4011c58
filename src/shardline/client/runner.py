"""Between the model's own forward and the swarm: one remote step for each call of the chain.

Transformers' `generate` runs in the caller's thread and knows nothing of nodes; its cache object
stands for a session. The network lives on an event loop in a thread of its own.
"""

from __future__ import annotations

import functools
import time
import weakref
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

__all__ = ["Runner"]


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
        session = self._by_cache.get(cache) if cache is not None else None
        pages = 0
        if session is None:
            names = self._names(crossing) if cache is not None else ()
            size = crossing.batch, self._wanted(cache, crossing)
            session, pages = self._portal.call(self._open, crossing.start, *size, names)
        if cache is not None:
            self._by_cache[cache] = session
        try:
            return self._step(session, crossing, pages)
        finally:
            if cache is None:
                self._portal.call(self._close, session)

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

    def _step(self, session: RemoteSession, crossing: Crossing, pages: int) -> Returned:
        started_s = time.perf_counter()
        shared_tokens, crossing = self._begun(session, crossing, pages)
        meter = Meter(session.encoder)
        segments = pack(crossing.to_tree(), crossing.carried, meter)
        read = functools.partial(self._read, crossing)
        size = {"rows": crossing.batch, "tokens": crossing.cache_tokens}
        step = functools.partial(session.step, segments, read, **size)
        returned, spent = self._portal.call(step)
        self.chain, self.standbys = session.chain, session.standbys
        self.chains[crossing.start] = session.chain
        self.steps.append(
            StepTimes(
                wall_s=time.perf_counter() - started_s,
                nodes_s=tuple(node.compute_us / 1e6 for node in spent),
                moved_bytes=sum(segment.nbytes for segment in segments)
                + sum(node.sent_bytes for node in spent),
                saved_bytes=meter.saved_bytes + sum(node.saved_bytes for node in spent),
                wires=(meter.wire, *(node.wire for node in spent)),
                beside=max((node.beside for node in spent), default=0),
                shared_tokens=shared_tokens,
            )
        )
        return led_by(shared_tokens, returned, crossing.tokens) if shared_tokens else returned

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
