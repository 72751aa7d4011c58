"""Members of a swarm who hold its invite and do not keep its protocol."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

import msgspec

from shardline.core.clock import SystemClock
from shardline.core.ids import new_session_id
from shardline.swarm import Identity, issue_tls, membership, renew
from shardline.wire import (
    ChannelClosed,
    Close,
    Open,
    Opened,
    Step,
    ZenohSettings,
    ZenohTransport,
    open_zenoh,
)
from shardline.wire.handshake import Established, Initiator
from shardline.wire.handshake import Identity as Credentials

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from shardline.client import Swarm
    from shardline.core.errors import ShardlineError
    from shardline.core.ids import NodeId, SessionId
    from shardline.core.segments import Segment
    from shardline.swarm import Invite, Member, NodeRecord
    from shardline.wire import Message, Pipe, Spent

    Reply = tuple[Message, Sequence[Segment]] | None

__all__ = [
    "DEADLINE_S",
    "Impostor",
    "Mallory",
    "ends",
    "impostor_in",
    "mallory_of",
    "raw_pipe",
    "shake_hands",
]

DEADLINE_S = 20.0


class Mallory:
    """A member who says what she likes, and remembers what she hears."""

    def __init__(self, nodes: Sequence[NodeRecord]) -> None:
        self.nodes = nodes
        self.heard: list[Message] = []
        self.bodies: list[Sequence[Segment]] = []
        self.lost: list[NodeId] = []
        self.member: Member
        self._changed = asyncio.Event()

    @property
    def me(self) -> NodeId:
        return self.member.node_id

    def on_message(self, _peer: NodeId, message: Message, segments: Sequence[Segment]) -> None:
        self.heard.append(message)
        self.bodies.append(segments)
        self._changed.set()

    def on_lost(self, peer: NodeId, _error: ShardlineError) -> None:
        self.lost.append(peer)
        self._changed.set()

    async def say(self, message: Message, segments: Sequence[Segment] = (), *, to: int = 0) -> None:
        await self.member.switchboard.send(self.nodes[to].node, message, segments)

    async def until(self, happened: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not happened():
                self._changed.clear()
                await self._changed.wait()

    async def is_cut_off(self, by: int = 0) -> None:
        await self.until(lambda: self.nodes[by].node in self.lost)

    async def hears_more_than(self, words: int) -> None:
        await self.until(lambda: len(self.heard) > words)

    async def hears(self, kind: type[Message], count: int = 1) -> Any:
        await self.until(lambda: sum(isinstance(word, kind) for word in self.heard) >= count)
        return [word for word in self.heard if isinstance(word, kind)][count - 1]

    def all_heard(self, kind: type[Message]) -> list[Any]:
        return [word for word in self.heard if isinstance(word, kind)]

    def bodies_of(self, kind: type[Message]) -> list[list[bytes]]:
        pairs = zip(self.heard, self.bodies, strict=True)
        return [[bytes(part) for part in body] for word, body in pairs if isinstance(word, kind)]

    async def arrives(self, to: int = 0) -> None:
        """All that was said before has reached the node."""
        await self.member.switchboard.ping(self.nodes[to].node)

    def opening(self, *, at: int = 0, **changes: Any) -> Open:
        record = self.nodes[at]
        usual = Open(
            session=new_session_id(),
            caller=self.me,
            model=record.fingerprint,
            start=record.start,
            stop=record.stop,
            next=None,
            tokens=64,
            batch=1,
        )
        return msgspec.structs.replace(usual, **changes)

    def step(self, session: SessionId, number: int = 0, spent: Sequence[Spent] = ()) -> Step:
        """A step of a session at node 0."""
        return Step(session, 0, number, self.me, list(spent))

    def opened(self, message: Open) -> Opened:
        """The answer that a node gives."""
        return Opened(message.session, self.me, message.start)

    async def gets_all_of_the_cache(self) -> None:
        """What others had reserved becomes free: asks until it is, and gives it back."""
        asked = self.opening(tokens=self.nodes[0].cache_tokens_total)
        async with asyncio.timeout(DEADLINE_S):
            while not any(isinstance(word, Opened) for word in self.heard):
                before = len(self.heard)
                await self.say(asked)
                await self.hears_more_than(before)
        await self.say(Close(asked.session))

    async def opens(self, *, at: int = 0, **changes: Any) -> SessionId:
        message = self.opening(at=at, **changes)
        already = sum(isinstance(word, Opened) for word in self.heard)
        await self.say(message, to=at)
        await self.hears(Opened, already + 1)
        return message.session


@contextlib.asynccontextmanager
async def mallory_of(swarm: Swarm, nodes: Sequence[NodeRecord]) -> AsyncGenerator[Mallory]:
    mallory = Mallory(nodes)
    async with membership(
        swarm.invite,
        Identity.ephemeral(),
        listen=None,
        on_message=mallory.on_message,
        on_lost=mallory.on_lost,
    ) as mallory.member:
        yield mallory


class Impostor(Mallory):
    """A member who says that it serves the whole model, faster than anybody."""

    def __init__(self, like: NodeRecord, replies: Callable[[Impostor, Message], Reply]) -> None:
        super().__init__([like])
        self._replies = replies
        self._tasks: set[asyncio.Task[None]] = set()

    def on_message(self, peer: NodeId, message: Message, segments: Sequence[Segment]) -> None:
        super().on_message(peer, message, segments)
        reply = self._replies(self, message)
        if reply is not None:
            task = asyncio.ensure_future(self.member.switchboard.send(peer, *reply))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def publish(self, **changes: object) -> None:
        (like,) = self.nodes
        boast = {"start": 0, "stop": like.blocks, "block_steps_per_s": 1e9, "name": "impostor"}
        record = msgspec.structs.replace(like, node=self.me, **(boast | changes))
        record = renew(record, now_s=SystemClock().wall_s(), life_s=60)
        await self.member.directory.publish(record)


def silent(_impostor: Impostor, _message: Message) -> Reply:
    """Nothing is answered."""
    return None


@contextlib.asynccontextmanager
async def impostor_in(
    swarm: Swarm,
    like: NodeRecord,
    replies: Callable[[Impostor, Message], Reply] = silent,
    **changes: object,
) -> AsyncGenerator[Impostor]:
    impostor = Impostor(like, replies)
    async with membership(
        swarm.invite,
        Identity.ephemeral(),
        listen="127.0.0.1:0",
        on_message=impostor.on_message,
        on_lost=impostor.on_lost,
    ) as impostor.member:
        await impostor.publish(**changes)
        yield impostor


@contextlib.asynccontextmanager
async def raw_pipe(invite: Invite, node: NodeId) -> AsyncGenerator[tuple[Pipe, Credentials]]:
    """A pipe to a node, on which nothing was said yet."""
    identity = Identity.ephemeral()
    settings = ZenohSettings(listen=None, connect=invite.bootstrap, tls=issue_tls(invite))
    async with (
        open_zenoh(settings) as engine,
        ZenohTransport(engine, invite.prefix, identity.node_id) as transport,
    ):
        pipe = await transport.open(node)
        yield pipe, Credentials(identity, invite.membership_key, os.urandom(8))


async def shake_hands(pipe: Pipe, credentials: Credentials) -> Established:
    handshake = Initiator(credentials, pipe.peer)
    await pipe.send(handshake.hello())
    await pipe.send(handshake.answer(await pipe.receive()))
    established = handshake.welcomed(await pipe.receive())
    pipe.widen(2**20)
    return established


async def ends(pipe: Pipe) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await pipe.receive()
            except ChannelClosed:
                return
