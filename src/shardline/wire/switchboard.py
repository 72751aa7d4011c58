"""One warm, sealed channel to every peer that is spoken to, and one handler for all that comes.

The Switchboard dials on demand, proves both ends, answers pings, and cuts off any peer that
breaks the protocol, while everything else goes on. What a message means is not its business.

When two nodes dial each other at once, both channels stay: each side sends on the one it had
first, which keeps its order. If any channel to a peer breaks, all of them are closed and the peer
is reported lost, once, because what was on the way may be missing.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from shardline.core.errors import NodeLost, PeerFault, ShardlineError
from shardline.core.ids import PROTOCOL, NodeId, short
from shardline.wire.bursts import Bursts, proof_of
from shardline.wire.channel import Channel, call, welcome
from shardline.wire.frames import FRAME_BYTES_MAX, decode_frame, encode_frame
from shardline.wire.handshake import BOOT_BYTES, Identity
from shardline.wire.messages import Message, Ping, Pong
from shardline.wire.transport import ChannelClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from types import TracebackType
    from typing import Self

    from shardline.core.signer import Signer
    from shardline.wire.transport import Pipe, Transport

__all__ = ["Switchboard"]

HANDSHAKE_S: Final = 5.0
"""From the first byte of a handshake to the last; a slow one costs a place below."""
HALF_OPEN_MAX: Final = 64
"""Callers that may be in their handshake at once; callers beyond are hung up on."""
CHANNELS_MAX: Final = 4
"""Channels to one peer: two come from dialling each other at once, more are not needed."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A Ping that is out, and what its Pong may hold."""

    peer: NodeId
    answered: asyncio.Future[bool]
    """Whether a burst was answered as one."""
    want_bytes: int
    proof: bytes


@dataclass(slots=True)
class _Peer:
    boot: bytes
    channels: list[Channel] = field(default_factory=list[Channel])
    tasks: list[asyncio.Task[None]] = field(default_factory=list["asyncio.Task[None]"])


class Switchboard:
    """A node's channels; a context within which it can be called.

    `on_message(peer, message, segments)` is a plain function, called on the event loop for each
    message in the order of its channel. It must return at once: it looks, files and wakes.
    Segments are writable views that are its own. If it raises PeerFault, the peer is cut off; any
    other error is a bug of ours and ends the context. `on_lost(peer, error)` is called once when
    a peer that was connected is not any more.
    """

    def __init__(  # noqa: PLR0913 - ports first, then knobs
        self,
        transport: Transport,
        signer: Signer,
        membership_key: bytes,
        on_message: Callable[[NodeId, Message, list[memoryview]], None],
        on_lost: Callable[[NodeId, ShardlineError], None] | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
        frame_bytes_max: int = FRAME_BYTES_MAX,
        protocol: int = PROTOCOL,
    ) -> None:
        boot = secrets.token_bytes(BOOT_BYTES)
        self._transport = transport
        self._identity = Identity(signer, membership_key, boot, protocol)
        self._on_message = on_message
        self._on_lost = on_lost
        self._clock = clock
        self._frame_bytes_max = frame_bytes_max
        self._peers: dict[NodeId, _Peer] = {}
        self._dials: dict[NodeId, asyncio.Future[Channel]] = {}
        self._pings: dict[int, _Asked] = {}
        self._bursts = Bursts(clock)
        self._half_open = 0
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def me(self) -> NodeId:
        """The node that this switchboard speaks for."""
        return self._identity.signer.node_id

    @property
    def peers(self) -> tuple[NodeId, ...]:
        """Who is connected now."""
        return tuple(self._peers)

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._start(self._accept())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._on_lost = None
        for peer in self.peers:
            self.hang_up(peer, ChannelClosed("this node is leaving"))
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(exc_type, exc, traceback)

    async def send(
        self,
        peer: NodeId,
        message: Message,
        segments: Sequence[bytes | bytearray | memoryview] = (),
    ) -> None:
        """Hand a message over for this peer, dialling it if need be.

        Returns when the link has it, not when it has arrived; segments must not change until it
        returns. Messages of one sender to one peer stay
        in order as long as the peer is not lost. The caller sets the deadline with
        `asyncio.timeout`. Raises NodeLost if the peer cannot be reached, ForeignInvite,
        ProtocolMismatch or PeerFault if it is not one of ours, Unsupported for what fits no frame.
        To ourselves it goes without a link.
        """
        known = self._peers.get(peer)
        if known is not None:
            await known.channels[0].send(message, segments)
        elif peer == self.me:
            parts = encode_frame(message, segments, frame_bytes_max=self._frame_bytes_max).parts
            loop = asyncio.get_running_loop()
            loop.call_soon(self._deliver_own, bytearray().join(parts))
        else:
            channel = await self._connect(peer)
            await channel.send(message, segments)

    def send_now(
        self,
        peer: NodeId,
        message: Message,
        segments: Sequence[bytes | bytearray | memoryview] = (),
    ) -> bool:
        """Hand over a small message at the end of this turn of the loop, with all others of it.

        If the peer is lost by then, so is the message. False if it is not small, the link is full
        or the peer not connected, and `send` must be used. Raises Unsupported.
        """
        known = self._peers.get(peer)
        return known is not None and known.channels[0].send_now(message, segments)

    async def ping(self, peer: NodeId) -> float:
        """The round trip to this peer and back in milliseconds, event loops included."""
        return 0.0 if peer == self.me else (await self._ask(peer))[0]

    async def burst(self, peer: NodeId, *, up_bytes: int = 0, down_bytes: int = 0) -> float | None:
        """Milliseconds until so much was at this peer, or from it here, a round trip included.

        One of the two, at most BURST_BYTES_MAX. None: one of both ends is at another burst, or has
        had enough of them. What this node sends meanwhile, and gets, waits behind the burst.
        """
        with self._bursts.taken() as free:
            if not free or peer == self.me:
                return None
            took_ms, whole = await self._ask(peer, secrets.token_bytes(up_bytes), down_bytes)
            return took_ms if whole else None

    async def _ask(
        self, peer: NodeId, burst: bytes = b"", want_bytes: int = 0
    ) -> tuple[float, bool]:
        if peer not in self._peers:
            await self._connect(peer)
        nonce = secrets.randbits(63)
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._pings[nonce] = _Asked(peer, answered, want_bytes, proof_of(burst) if burst else b"")
        try:
            started = self._clock()
            await self.send(peer, Ping(nonce, want_bytes), [burst] if burst else [])
            whole = await answered
            return (self._clock() - started) * 1e3, whole
        finally:
            del self._pings[nonce]

    def hang_up(self, peer: NodeId, error: ShardlineError) -> None:
        """Close every channel to this peer; `on_lost` hears of it."""
        lost = self._peers.pop(peer, None)
        if lost is None:
            return
        if isinstance(error, PeerFault):
            _log.warning("cut off node %s: %s", short(peer), error)
        for channel in lost.channels:
            channel.close(error)
        for task in lost.tasks:
            if task is not asyncio.current_task():
                task.cancel()
        for asked in self._pings.values():
            if asked.peer == peer and not asked.answered.done():
                asked.answered.set_exception(error)
        if self._on_lost is not None:
            self._on_lost(peer, error)

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _deliver_own(self, frame: bytearray) -> None:
        for found in decode_frame(frame, frame_bytes_max=self._frame_bytes_max):
            self._on_message(self.me, *found)

    async def _connect(self, peer: NodeId) -> Channel:
        """The channel of the dial under way, or of a new one that no single caller can cancel."""
        dial = self._dials.get(peer)
        if dial is None:
            dial = self._dials[peer] = asyncio.get_running_loop().create_future()
            self._start(self._dial(peer, dial))
        return await asyncio.shield(dial)

    async def _dial(self, peer: NodeId, dial: asyncio.Future[Channel]) -> None:
        try:
            dial.set_result(await self._dialled(peer))
        except ShardlineError as error:
            dial.set_exception(error)
            dial.exception()  # whoever asked may have left
        finally:
            del self._dials[peer]
            if not dial.done():
                dial.set_exception(ChannelClosed("this node is leaving"))
                dial.exception()

    async def _dialled(self, peer: NodeId) -> Channel:
        pipe = await self._transport.open(peer)
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                channel = await call(pipe, self._identity, self._frame_bytes_max)
        except TimeoutError:
            pipe.close()
            raise NodeLost(f"node {short(peer)} did not finish its handshake") from None
        except (ShardlineError, asyncio.CancelledError):
            pipe.close()
            raise
        return self._adopt(channel)

    async def _accept(self) -> None:
        while True:
            try:
                pipe = await self._transport.accept()
            except ChannelClosed:
                return
            if self._half_open >= HALF_OPEN_MAX:
                _log.warning("hung up on %s: too many handshakes at once", short(pipe.peer))
                pipe.close()
                continue
            self._half_open += 1
            self._start(self._welcome(pipe))

    async def _welcome(self, pipe: Pipe) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                channel = await welcome(pipe, self._identity, self._frame_bytes_max)
        except (ShardlineError, TimeoutError) as error:
            text = str(error) or "no handshake in time"
            _log.warning("refused a caller (%s): %s", short(pipe.peer), text)
            pipe.close()
        except asyncio.CancelledError:
            pipe.close()
            raise
        else:
            self._adopt(channel)
        finally:
            self._half_open -= 1

    def _adopt(self, channel: Channel) -> Channel:
        """Take a channel into service; the one to send on, which may be an older one."""
        peer = self._peers.get(channel.peer)
        if peer is not None and peer.boot != channel.boot:
            self.hang_up(channel.peer, NodeLost(f"node {short(channel.peer)} was restarted"))
            peer = None
        if peer is None:
            peer = self._peers[channel.peer] = _Peer(channel.boot)
        if len(peer.channels) >= CHANNELS_MAX:
            channel.close(ChannelClosed("one channel too many"))
            return peer.channels[0]
        peer.channels.append(channel)
        peer.tasks += [self._start(self._read(channel)), self._start(self._write(channel))]
        return peer.channels[0]

    async def _read(self, channel: Channel) -> None:
        peer = channel.peer
        try:
            while True:
                message, segments = await channel.receive()
                if isinstance(message, Ping):
                    with self._bursts.answer(message, segments) as (pong, burst):
                        await channel.send(pong, burst)
                elif isinstance(message, Pong):
                    self._ponged(peer, message, sum(part.nbytes for part in segments))
                else:
                    self._on_message(peer, message, segments)
        except (ChannelClosed, PeerFault) as error:
            self._broke(channel, error)

    async def _write(self, channel: Channel) -> None:
        try:
            await channel.write()
        except ChannelClosed as error:
            self._broke(channel, error)

    def _broke(self, channel: Channel, error: ShardlineError) -> None:
        known = self._peers.get(channel.peer)
        if known is not None and channel in known.channels:  # else its peer is lost already
            self.hang_up(channel.peer, error)

    def _ponged(self, peer: NodeId, pong: Pong, size_bytes: int) -> None:
        asked = self._pings.get(pong.nonce)
        if asked is None or asked.peer != peer or asked.answered.done():
            return  # whoever asked has given up
        if size_bytes not in {0, asked.want_bytes} or pong.proof not in {b"", asked.proof}:
            raise PeerFault("an answer to a burst that is none")
        asked.answered.set_result(bool(size_bytes or pong.proof))
