"""The Directory over Zenoh: each node serves its own record, and its token shows that it lives.

Keys, all under the swarm's prefix:
- `record/<node>`: a queryable that answers with the node's record; each new record is also put
  here, so that watchers need not ask;
- `live/<node>/<run>`: a liveliness token. `run` is drawn for each process, so that the death of a
  node's last process says nothing about the one that replaced it.

Zenoh calls back on its own threads; what it says is cut to size there and handed to the event loop.
Replies are not consolidated: a member who answers in another's place cannot hide the true record.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Protocol, cast

import zenoh

from shardline.core.ids import NodeId
from shardline.swarm.feed import Feed
from shardline.swarm.records import RECORD_BYTES_MAX, NodeRecord, sign
from shardline.swarm.view import View

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from shardline.core.clock import Clock
    from shardline.core.signer import Signer
    from shardline.swarm.directory import Event, Snapshot

__all__ = ["ZenohDirectory"]

ASK_S = 1.0
"""How long a snapshot waits for the slowest node; it ends earlier when all have answered."""
REPLIES_MAX = 16_384
"""Answers kept of one question."""
WAITING_MAX = 4_096
"""Calls from Zenoh's threads that may wait for the event loop; more are dropped, and a record's
next issue, or its end, makes up for them."""

_DIGITS = frozenset("0123456789abcdef")
_NODE_DIGITS = 64
_RUN_BYTES = 4


class _Undeclares(Protocol):
    """What Zenoh's stubs leave untyped, and the two protocols below."""

    def undeclare(self) -> None: ...


class _Puts(Protocol):
    def put(self, key_expr: str, payload: bytes) -> None: ...


class _Replies(Protocol):
    def reply(self, key_expr: str, payload: bytes) -> None: ...


class ZenohDirectory:
    """One member's door to the swarm; lives as long as its session. See Directory."""

    def __init__(self, session: zenoh.Session, prefix: str, signer: Signer, clock: Clock) -> None:
        self._session = session
        self._signer = signer
        self._clock = clock
        self._refused: set[NodeId] = set()
        self._records = f"{prefix}/record"
        self._own_key = f"{self._records}/{signer.node_id}"
        self._lives = f"{prefix}/live"
        self._run = secrets.token_hex(_RUN_BYTES)
        self._data = b""
        self._busy = asyncio.Lock()
        self._queryable: _Undeclares | None = None
        self._token: _Undeclares | None = None

    async def publish(self, record: NodeRecord) -> None:
        """See Directory."""
        data = sign(record, self._signer)
        async with self._busy:
            self._data = data
            await asyncio.to_thread(self._announce)

    async def withdraw(self) -> None:
        """See Directory."""
        async with self._busy:
            await asyncio.to_thread(self._retract)

    async def snapshot(self) -> Snapshot:
        """See Directory."""
        lives, records = await asyncio.gather(
            _answers(self._ask_lives), _answers(self._ask_records)
        )
        view = View(self._refused)
        now_s = self._clock.wall_s()
        for key, _ in lives:
            if life := _life_of(key):
                view.hear_life(*life)
        for key, data in records:
            if node := _node_of(key):
                view.hear_record(node, data, now_s)
        return view.snapshot(now_s)

    @asynccontextmanager
    async def watch(self) -> AsyncGenerator[AsyncIterator[Event]]:
        """See Directory."""
        feed = Feed(View(self._refused), self._clock, self._refill)
        watcher = _Watcher(self, feed, _Handover(asyncio.get_running_loop()))
        await asyncio.to_thread(watcher.open)
        try:
            await self._refill(feed)
            watcher.asks = True
            yield feed
        finally:
            await asyncio.to_thread(watcher.close)

    def _announce(self) -> None:
        """Record first, then the sign of life, then the news: who sees life can ask."""
        if self._queryable is None:
            queryable = self._session.declare_queryable(self._own_key, self._answer)
            self._queryable = cast("_Undeclares", queryable)
        if self._token is None:
            token = self._session.liveliness().declare_token(
                f"{self._lives}/{self._signer.node_id}/{self._run}"
            )
            self._token = cast("_Undeclares", token)
        cast("_Puts", self._session).put(self._own_key, self._data)

    def _answer(self, query: zenoh.Query) -> None:
        cast("_Replies", query).reply(self._own_key, self._data)

    def _retract(self) -> None:
        if self._token is not None:
            self._token.undeclare()
            self._token = None
        if self._queryable is not None:
            self._queryable.undeclare()
            self._queryable = None

    def ask_record(self, node: str, handler: zenoh.handlers.Callback[zenoh.Reply]) -> None:
        """Ask for one node's record, or for those of `*`; does not wait for the answers."""
        self._session.get(
            f"{self._records}/{node}",
            handler,
            target=zenoh.QueryTarget.ALL,
            consolidation=zenoh.ConsolidationMode.NONE,
            timeout=ASK_S,
        )

    def subscribe(
        self,
        hear_record: Callable[[zenoh.Sample], None],
        hear_life: Callable[[zenoh.Sample], None],
    ) -> list[_Undeclares]:
        """Follow all records and all lives, those that are here already included."""
        lives = self._session.liveliness()
        subscribers = [
            self._session.declare_subscriber(f"{self._records}/*", hear_record),
            lives.declare_subscriber(f"{self._lives}/*/*", hear_life, history=True),
        ]
        return [cast("_Undeclares", subscriber) for subscriber in subscribers]

    def _ask_records(self, handler: zenoh.handlers.Callback[zenoh.Reply]) -> None:
        self.ask_record("*", handler)

    def _ask_lives(self, handler: zenoh.handlers.Callback[zenoh.Reply]) -> None:
        self._session.liveliness().get(f"{self._lives}/*/*", handler, timeout=ASK_S)

    async def _refill(self, feed: Feed) -> None:
        for key, data in await _answers(self._ask_records):
            if node := _node_of(key):
                feed.hear_record(node, data)


class _Handover:
    """Calls from Zenoh's threads to the event loop; a bounded number of them waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots = threading.BoundedSemaphore(WAITING_MAX)
        self._open = True

    def call(self, function: Callable[..., None], *args: object) -> None:
        """Call this soon on the loop, or never if it is closed or too many wait."""
        if self._open and self._slots.acquire(blocking=False):
            with suppress(RuntimeError):  # the loop closed before Zenoh did
                self._loop.call_soon_threadsafe(self._call, function, args)

    def close(self) -> None:
        """Let nothing through any more, what waits included."""
        self._open = False

    def _call(self, function: Callable[..., None], args: tuple[object, ...]) -> None:
        self._slots.release()
        if self._open:
            function(*args)


class _Watcher:
    """Zenoh's side of one watch: its methods run on Zenoh's threads."""

    def __init__(self, directory: ZenohDirectory, feed: Feed, handover: _Handover) -> None:
        self._directory = directory
        self._feed = feed
        self._handover = handover
        self._subscribers: list[_Undeclares] = []
        self.asks = False
        """Whether a new life's record is asked for at once; the first ones are asked together."""

    def open(self) -> None:
        self._subscribers = self._directory.subscribe(self._hear_record, self._hear_life)

    def close(self) -> None:
        self._handover.close()
        for subscriber in self._subscribers:
            subscriber.undeclare()

    def _hear_record(self, sample: zenoh.Sample) -> None:
        node = _node_of(str(sample.key_expr))
        if node and len(sample.payload) <= RECORD_BYTES_MAX:
            self._handover.call(self._feed.hear_record, node, sample.payload.to_bytes())

    def _hear_reply(self, reply: zenoh.Reply) -> None:
        if reply.ok:
            self._hear_record(reply.ok)

    def _hear_life(self, sample: zenoh.Sample) -> None:
        life = _life_of(str(sample.key_expr))
        if life is None:
            return
        if sample.kind == zenoh.SampleKind.DELETE:
            self._handover.call(self._feed.hear_death, *life)
            return
        self._handover.call(self._feed.hear_life, *life)
        if self.asks:
            with suppress(zenoh.ZError):  # the session closes: nobody waits for the answer
                self._directory.ask_record(life[0], zenoh.handlers.Callback(self._hear_reply))


async def _answers(
    ask: Callable[[zenoh.handlers.Callback[zenoh.Reply]], None],
) -> list[tuple[str, bytes]]:
    """Keys and payloads of all that answer in time; oversized ones are left out."""
    found: list[tuple[str, bytes]] = []
    handover = _Handover(asyncio.get_running_loop())
    done = asyncio.Event()

    def hear(reply: zenoh.Reply) -> None:
        sample = reply.ok
        if sample and len(found) < REPLIES_MAX and len(sample.payload) <= RECORD_BYTES_MAX:
            found.append((str(sample.key_expr), sample.payload.to_bytes()))

    await asyncio.to_thread(ask, zenoh.handlers.Callback(hear, lambda: handover.call(done.set)))
    with suppress(TimeoutError):
        async with asyncio.timeout(ASK_S):
            await done.wait()
    handover.close()
    return list(found)


def _node_of(key: str) -> NodeId | None:
    """The node of a record's key; None if there is none, as in a key with wildcards."""
    node = key.rpartition("/")[2]
    return NodeId(node) if _is_hex(node, _NODE_DIGITS) else None


def _life_of(key: str) -> tuple[NodeId, str] | None:
    """The node and the process of a token's key."""
    head, _, run = key.rpartition("/")
    node = _node_of(head)
    return (node, run) if node and _is_hex(run, 2 * _RUN_BYTES) else None


def _is_hex(text: str, digits: int) -> bool:
    return len(text) == digits and _DIGITS.issuperset(text)
