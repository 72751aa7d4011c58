"""What the Directory suite needs of an engine: some members, and ways to do harm."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol, cast

import pytest

from shardline.core.errors import PeerFault
from shardline.swarm import (
    DhtDirectory,
    DhtEngine,
    DhtSettings,
    Directory,
    Foreign,
    MemoryBoard,
    MemoryDirectory,
    ZenohDirectory,
    open_dht,
    open_record,
)
from shardline.wire import ZenohEngine, ZenohSettings, open_zenoh

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager

    import zenoh

    from shardline.core.clock import Clock
    from shardline.core.ids import NodeId
    from shardline.core.signer import Signer

__all__ = ["ENGINES", "World"]

MEMBERS = 3
PREFIX = "shardline/0123456789abcdef"


class World(Protocol):
    """One swarm of MEMBERS places; `open` may be called once for each."""

    departure_s: float
    """All notice within this that a member died or withdrew; engines differ in it."""

    def open(self, place: int, signer: Signer, clock: Clock) -> Directory: ...

    async def kill(self, place: int) -> None:
        """The process at this place dies without a word."""
        ...

    async def plant(self, place: int, node: NodeId, data: bytes) -> None:
        """A member shows a life and serves these bytes where that node's record belongs."""
        ...


class MemoryWorld:
    departure_s = 1.0

    def __init__(self) -> None:
        self._board = MemoryBoard()
        self._signers: dict[int, Signer] = {}

    def open(self, place: int, signer: Signer, clock: Clock) -> Directory:
        self._signers[place] = signer
        return MemoryDirectory(self._board, signer, clock)

    async def kill(self, place: int) -> None:
        self._board.kill(self._signers[place].node_id)

    async def plant(self, place: int, node: NodeId, data: bytes) -> None:
        self._board.pin(secrets.token_hex(4), node, data)


class ZenohWorld:
    """Engines on the loopback, all connected to the first; each closes on its own."""

    departure_s = 10.0

    def __init__(self, places: list[tuple[ZenohEngine, AsyncExitStack]]) -> None:
        self._places = places
        self._planted: list[object] = []

    def open(self, place: int, signer: Signer, clock: Clock) -> Directory:
        return ZenohDirectory(self._session(place), PREFIX, signer, clock)

    async def kill(self, place: int) -> None:
        await self._places[place][1].aclose()

    async def plant(self, place: int, node: NodeId, data: bytes) -> None:
        key = f"{PREFIX}/record/{node}"

        def answer(query: zenoh.Query) -> None:
            cast("_Replies", query).reply(key, data)

        def declare() -> None:
            session = self._session(place)
            life = f"{PREFIX}/live/{node}/{secrets.token_hex(4)}"
            self._planted.append(session.declare_queryable(key, answer))
            self._planted.append(session.liveliness().declare_token(life))
            cast("_Puts", session).put(key, data)

        await asyncio.to_thread(declare)

    def _session(self, place: int) -> zenoh.Session:
        return self._places[place][0].session


class DhtWorld:
    """Daemons on the loopback, all joined through the first. A DHT tells nobody of a death: a
    member is gone when its lease has run out and the others have asked again."""

    SETTINGS = DhtSettings(lease_s=1.5, poll_s=0.2)
    departure_s = 5.0  # the lease, a poll, the second that an answer may take, and a busy machine

    def __init__(self, places: list[tuple[DhtEngine, AsyncExitStack]]) -> None:
        self._places = places

    def open(self, place: int, signer: Signer, clock: Clock) -> Directory:
        return DhtDirectory(self._places[place][0], signer, clock)

    async def kill(self, place: int) -> None:
        await self._places[place][1].aclose()

    async def plant(self, place: int, node: NodeId, data: bytes) -> None:
        await self._places[place][0].lease(node, _sequence(data), data)


def _sequence(data: bytes) -> int:
    """Where a DHT looks for this record."""
    try:
        record = open_record(data)
    except PeerFault:
        return 1
    return 1 if isinstance(record, Foreign) else record.sequence


class _Puts(Protocol):
    """What Zenoh's stubs leave untyped, and the protocol below."""

    def put(self, key_expr: str, payload: bytes) -> None: ...


class _Replies(Protocol):
    def reply(self, key_expr: str, payload: bytes) -> None: ...


@asynccontextmanager
async def _memory() -> AsyncGenerator[World]:
    yield MemoryWorld()


@asynccontextmanager
async def _zenoh() -> AsyncGenerator[World]:
    places: list[tuple[ZenohEngine, AsyncExitStack]] = []
    async with AsyncExitStack() as all_of_them:
        for _ in range(MEMBERS):
            stack = await all_of_them.enter_async_context(AsyncExitStack())
            connect = places[0][0].listening if places else ()
            settings = ZenohSettings(listen="127.0.0.1:0", connect=connect)
            places.append((await stack.enter_async_context(open_zenoh(settings)), stack))
        yield ZenohWorld(places)


@asynccontextmanager
async def _dht() -> AsyncGenerator[World]:
    if find_spec("hivemind") is None:
        pytest.skip("hivemind is not installed: pip install 'shardline[dht]'")
    places: list[tuple[DhtEngine, AsyncExitStack]] = []
    async with AsyncExitStack() as all_of_them:
        for _ in range(MEMBERS):
            stack = await all_of_them.enter_async_context(AsyncExitStack())
            peers = places[0][0].addresses if places else ()
            settings = replace(DhtWorld.SETTINGS, peers=peers)
            places.append((await stack.enter_async_context(open_dht(settings, PREFIX)), stack))
        yield DhtWorld(places)


ENGINES: dict[str, Callable[[], AbstractAsyncContextManager[World]]] = {
    "memory": _memory,
    "zenoh": _zenoh,
    "dht": _dht,
}
"""One line an engine."""
