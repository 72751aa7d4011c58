"""What the Directory suite needs of an engine: some members, and ways to do harm."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Protocol, cast

from shardline.swarm import Directory, MemoryBoard, MemoryDirectory, ZenohDirectory
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


class World(Protocol):
    """One swarm of MEMBERS places; `open` may be called once for each."""

    def open(self, place: int, signer: Signer, clock: Clock) -> Directory: ...

    async def kill(self, place: int) -> None:
        """The process at this place dies without a word."""
        ...

    async def plant(self, place: int, node: NodeId, data: bytes) -> None:
        """A member shows a life and serves these bytes where that node's record belongs."""
        ...


class MemoryWorld:
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

    PREFIX = "shardline/0123456789abcdef"

    def __init__(self, places: list[tuple[ZenohEngine, AsyncExitStack]]) -> None:
        self._places = places
        self._planted: list[object] = []

    def open(self, place: int, signer: Signer, clock: Clock) -> Directory:
        return ZenohDirectory(self._session(place), self.PREFIX, signer, clock)

    async def kill(self, place: int) -> None:
        await self._places[place][1].aclose()

    async def plant(self, place: int, node: NodeId, data: bytes) -> None:
        key = f"{self.PREFIX}/record/{node}"

        def answer(query: zenoh.Query) -> None:
            cast("_Replies", query).reply(key, data)

        def declare() -> None:
            session = self._session(place)
            life = f"{self.PREFIX}/live/{node}/{secrets.token_hex(4)}"
            self._planted.append(session.declare_queryable(key, answer))
            self._planted.append(session.liveliness().declare_token(life))
            cast("_Puts", session).put(key, data)

        await asyncio.to_thread(declare)

    def _session(self, place: int) -> zenoh.Session:
        return self._places[place][0].session


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


ENGINES: dict[str, Callable[[], AbstractAsyncContextManager[World]]] = {
    "memory": _memory,
    "zenoh": _zenoh,
}
"""One line an engine."""
