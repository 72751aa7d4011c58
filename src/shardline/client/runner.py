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
from shardline.core.errors import PeerFault, ShardlineError
from shardline.model import Crossing, Returned

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyio.from_thread import BlockingPortal
    from transformers import Cache

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
        begin: Callable[[], RemoteSession],
        tokens: int,
        links: tuple[tuple[int | str, ...], ...],
    ) -> None:
        self._portal = portal
        self._sessions = sessions
        self._begin = begin
        self._links = links
        """Where in the last block's output the values are that the chain carries."""
        self._by_cache: weakref.WeakKeyDictionary[Cache, RemoteSession] = (
            weakref.WeakKeyDictionary()
        )
        self._held: set[RemoteSession] = set()
        """Every session that is open: most caches are gone before somebody says `forget`."""
        self.tokens = tokens
        """How many tokens a session that is opened now may hold."""
        self.chain: tuple[Hop, ...] = ()
        """Of the session that was stepped last."""
        self.standbys: tuple[Hop, ...] = ()
        """Of the same session."""
        self.steps: list[StepTimes] = []
        """Every step since somebody last cleared it."""

    def __call__(self, cache: Cache | None, crossing: Crossing) -> Returned:
        """All blocks' work on the swarm; raises ChainBroken, NotCovered or CacheFull."""
        session = self._by_cache.get(cache) if cache is not None else None
        if session is None:
            wanted = crossing.tokens if cache is None else max(crossing.tokens, self.tokens)
            session = self._portal.call(self._open, crossing.batch, wanted)
        if cache is not None:
            self._by_cache[cache] = session
        try:
            return self._step(session, crossing)
        finally:
            if cache is None:
                self._portal.call(self._close, session)

    def _step(self, session: RemoteSession, crossing: Crossing) -> Returned:
        started_s = time.perf_counter()
        meter = Meter(session.encoder)
        segments = pack(crossing.to_tree(), crossing.carried, meter)
        read = functools.partial(self._read, crossing)
        size = {"rows": crossing.batch, "tokens": crossing.tokens}
        step = functools.partial(session.step, segments, read, **size)
        returned, spent = self._portal.call(step)
        self.chain, self.standbys = session.chain, session.standbys
        self.steps.append(
            StepTimes(
                wall_s=time.perf_counter() - started_s,
                nodes_s=tuple(node.compute_us / 1e6 for node in spent),
                moved_bytes=sum(segment.nbytes for segment in segments)
                + sum(node.sent_bytes for node in spent),
                saved_bytes=meter.saved_bytes + sum(node.saved_bytes for node in spent),
                wires=(meter.wire, *(node.wire for node in spent)),
                beside=max((node.beside for node in spent), default=0),
            )
        )
        return returned

    def _read(self, sent: Crossing, segments: Sequence[Segment]) -> Returned:
        """What came back, if it can be the answer to what was sent; raises PeerFault if not."""
        returned = Returned.from_tree(unpack(segments))
        for end, begin in zip(returned.carried(self._links), sent.carried, strict=True):
            if (end.shape, end.dtype) != (begin.shape, begin.dtype):
                what = f"{tuple(end.shape)} of {end.dtype}"
                raise PeerFault(f"{what} came back for {tuple(begin.shape)} of {begin.dtype}")
        return returned

    def forget(self, kept: Cache | None = None) -> None:
        """Close every session but that of `kept`, a cache which its owner goes on with."""
        stays = self._by_cache.get(kept) if kept is not None else None
        self._by_cache.clear()
        if kept is not None and stays is not None:
            self._by_cache[kept] = stays
        for session in self._held - {stays}:
            self._portal.call(self._close, session)

    async def _open(self, rows: int, tokens: int) -> RemoteSession:
        session = self._begin()
        self._sessions.add(session)
        self._held.add(session)
        try:
            await session.open(rows=rows, tokens=tokens)
        except ShardlineError:
            await self._close(session)
            raise
        return session

    async def _close(self, session: RemoteSession) -> None:
        self._held.discard(session)
        self._sessions.remove(session)
        await session.close()
