"""The second transport: QUIC that is dialled by key, and finds ways through NATs (extra `nat`).

The first frame of a pipe is, each way, the node id that a side claims. The endpoint's key is its
own, made afresh at each start: addresses come from signed records, which name it, and the
Switchboard's handshake proves the node id.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Final

from shardline.core.errors import NodeLost
from shardline.core.ids import NodeId, short
from shardline.wire.transport import ChannelClosed
from shardline.wire.transports.iroh_engine import (
    ALPN,
    bind,
    endpoint_addr,
    load_iroh,
    parse_address,
    published,
    relay_mode,
)
from shardline.wire.transports.iroh_pipe import IrohPipe

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType
    from typing import Self

    from shardline.wire.transports.iroh_engine import IrohAddress, IrohSettings, Route
    from shardline.wire.transports.iroh_types import (
        BiStream,
        Connection,
        Endpoint,
        Incoming,
        Iroh,
        RelayMode,
    )

__all__ = ["IrohTransport"]

OPEN_S: Final = 3.0
"""How long `open` waits for a peer that may be just starting, and a caller may take to start."""
RETRY_S: Final = 0.2
ONLINE_S: Final = 5.0
"""How long to wait for a relay at the start."""
CLOSE_S: Final = 1.0
ADDRESSES_MAX: Final = 4
"""Of one peer's addresses, each gets its part of the time."""
ACCEPT_MAX: Final = 64
"""Pipes that wait to be accepted, or for their caller's first frame; callers beyond are refused."""
PIPES_MAX: Final = 4_096
_ID_BYTES: Final = 32

_log = logging.getLogger(__name__)


class IrohTransport:
    """A node's place: an endpoint, and `find`, which looks up a peer's published addresses."""

    def __init__(
        self,
        settings: IrohSettings,
        me: NodeId,
        find: Callable[[NodeId], Awaitable[Sequence[str]]],
        *,
        open_s: float = OPEN_S,
    ) -> None:
        self._settings = settings
        self._me = me
        self._find = find
        self._open_s = open_s
        self._group = asyncio.TaskGroup()
        self._iroh: Iroh | None = None
        self._endpoint: Endpoint | None = None
        self._relays: RelayMode | None = None
        self._serving: asyncio.Task[None] | None = None
        self._pipes: set[IrohPipe] = set()
        self._arriving: set[asyncio.Task[None]] = set()
        self._arrived: deque[IrohPipe] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    @property
    def me(self) -> NodeId:
        """The node whose place this is."""
        return self._me

    @property
    def address(self) -> str:
        """What to publish for others' `find`. It changes when the machine's network does."""
        return published(self._entered[1])

    def route(self, peer: NodeId) -> Route | None:
        """Whether a relay carries what we send to this peer; None if there is no pipe to it."""
        routes: list[Route] = [
            pipe.route for pipe in self._pipes if pipe.claimed == peer and pipe.inbox.ended is None
        ]
        return routes[0] if routes else None

    @property
    def _entered(self) -> tuple[Iroh, Endpoint, RelayMode]:
        assert self._iroh is not None, "enter the transport first"
        assert self._endpoint is not None
        assert self._relays is not None
        return self._iroh, self._endpoint, self._relays

    async def __aenter__(self) -> Self:
        self._iroh = load_iroh()
        self._relays = relay_mode(self._iroh, self._settings.relays)
        self._endpoint = await bind(self._iroh, self._settings, self._relays)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._endpoint.close)
            if self._settings.relays:
                await self._wait_for_relay(self._endpoint)
            undo.pop_all()
        await self._group.__aenter__()
        self._serving = self._group.create_task(self._serve(self._endpoint))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        if self._serving is not None:
            self._serving.cancel()
        try:
            await self._group.__aexit__(exc_type, exc, traceback)
        finally:
            with suppress(TimeoutError):  # what it waits for is peers that do not answer
                async with asyncio.timeout(CLOSE_S):
                    await self._entered[1].close()

    @staticmethod
    async def _wait_for_relay(endpoint: Endpoint) -> None:
        try:
            async with asyncio.timeout(ONLINE_S):
                await endpoint.online()
        except TimeoutError:
            _log.warning("no relay answers: nodes behind a NAT cannot be reached")

    async def open(self, peer: NodeId) -> IrohPipe:
        """See Transport. The addresses that `find` gives are tried in turn, until one answers."""
        try:
            async with asyncio.timeout(self._open_s):
                while True:
                    self._check_open()
                    pipe = await self._dial_any(peer)
                    if pipe is not None:
                        return pipe
                    await asyncio.sleep(RETRY_S)
        except TimeoutError:
            raise NodeLost(f"node {short(peer)} cannot be reached") from None

    async def _dial_any(self, peer: NodeId) -> IrohPipe | None:
        addresses = [found for text in await self._find(peer) if (found := parse_address(text))]
        for address in addresses[:ADDRESSES_MAX]:
            with suppress(TimeoutError):  # nothing answers there
                async with asyncio.timeout(self._open_s / len(addresses[:ADDRESSES_MAX])):
                    pipe = await self._dial(peer, address)
                    if pipe is not None:
                        return pipe
        return None

    def _check_open(self) -> None:
        if self._closed:
            raise ChannelClosed("this transport is closed")

    async def _dial(self, peer: NodeId, address: IrohAddress) -> IrohPipe | None:
        """A pipe that the peer has answered on, or None."""
        iroh, endpoint, relays = self._entered
        try:
            target = endpoint_addr(iroh, address, relays)
            connection = await endpoint.connect(target, ALPN)
        except iroh.IrohError:
            return None
        self._check_open()
        pipe = self._add(connection, peer, connection.open_bi)
        try:
            pipe.send_now(bytes.fromhex(self._me))
            answer = await pipe.receive()
        except ChannelClosed:
            return None
        except asyncio.CancelledError:
            pipe.close()
            raise
        if answer.hex() == peer:
            return pipe
        pipe.close()
        return None

    def _add(
        self,
        connection: Connection,
        peer: NodeId | None,
        start: Callable[[], Awaitable[BiStream]],
    ) -> IrohPipe:
        pipe = IrohPipe(self._entered[0], connection, peer, self._settings.lease_s)
        self._pipes.add(pipe)
        running = self._group.create_task(pipe.run(start))
        running.add_done_callback(lambda _: self._pipes.discard(pipe))
        return pipe

    async def accept(self) -> IrohPipe:
        """See Transport."""
        while True:
            self._check_open()
            while self._arrived:
                pipe = self._arrived.popleft()
                if pipe.inbox.ended is None:
                    return pipe
            self._changed.clear()
            await self._changed.wait()

    async def _serve(self, endpoint: Endpoint) -> None:
        """Let callers in, as long as few enough wait."""
        iroh, *_ = self._entered
        while (incoming := await endpoint.accept_next()) is not None:
            waiting = len(self._arriving) + len(self._arrived)
            if self._closed or waiting >= ACCEPT_MAX or len(self._pipes) >= PIPES_MAX:
                with suppress(iroh.IrohError):  # it has left
                    await incoming.refuse()
            else:
                arriving = self._group.create_task(self._welcome(incoming))
                self._arriving.add(arriving)
                arriving.add_done_callback(self._arriving.discard)

    async def _welcome(self, incoming: Incoming) -> None:
        pipe = None
        try:
            async with asyncio.timeout(self._open_s):
                connection = await (await incoming.accept()).connect()
                pipe = self._add(connection, None, connection.accept_bi)
                hello = await pipe.receive()
            if len(hello) == _ID_BYTES and not self._closed:
                pipe.claimed = NodeId(hello.hex())
                pipe.send_now(bytes.fromhex(self._me))
                self._arrived.append(pipe)
                self._changed.set()
            else:
                pipe.close()
        except (self._entered[0].IrohError, ChannelClosed, TimeoutError):
            if pipe is not None:
                pipe.close()

    def close(self) -> None:
        """See Transport."""
        self._closed = True
        self._changed.set()
        for pipe in list(self._pipes):
            pipe.close()
        for arriving in self._arriving:
            arriving.cancel()
