"""Joining a swarm from Python: `async with shardline.join(invite) as swarm`.

The network lives on an event loop in a thread of its own, so that a model can be called from
plain code, from a notebook and from under another event loop alike.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING

import torch
from anyio.from_thread import start_blocking_portal

from shardline.client.model import SwarmModel
from shardline.client.runner import Runner
from shardline.client.session import RemoteSession, Sessions
from shardline.codec import dtype_name
from shardline.core.errors import NodeLost
from shardline.core.spans import gaps
from shardline.model import fingerprint, load_ends, resolve, trace
from shardline.swarm import Identity, Invite, Left, choose_chain, membership

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from anyio.from_thread import BlockingPortal

    from shardline.core.errors import ShardlineError
    from shardline.core.ids import NodeId
    from shardline.model import ChainPlan
    from shardline.swarm import Hop, Member, NodeRecord

__all__ = ["Swarm", "join", "joined"]


class Swarm:
    """A caller's view of one swarm; made by `join` or `joined`."""

    def __init__(self, portal: BlockingPortal, member: Member, sessions: Sessions) -> None:
        self._portal = portal
        self._member = member
        self._sessions = sessions
        self._rtts_ms: dict[NodeId, float] = {}

    @property
    def invite(self) -> Invite:
        """The invite by which others find this member too, if it listens."""
        return self._member.invite

    async def nodes(self) -> list[NodeRecord]:
        """The live nodes' records, by name."""
        return await asyncio.to_thread(self.nodes_now)

    async def model(
        self, model: str, *, dtype: torch.dtype | None = None, device: str = "cpu"
    ) -> SwarmModel:
        """The model of this directory or hub id, with its blocks on the swarm; see `model_now`."""
        return await asyncio.to_thread(self.model_now, model, dtype=dtype, device=device)

    def nodes_now(self) -> list[NodeRecord]:
        """As `nodes`, for plain code."""
        snapshot = self._portal.call(self._member.directory.snapshot)
        return sorted(snapshot.records.values(), key=lambda record: (record.start, record.name))

    def ping_now(self, node: NodeId) -> float | None:
        """Round-trip time to a node in ms, or None if it cannot be reached."""
        return self._portal.call(self._ping, node)

    def model_now(
        self, model: str, *, dtype: torch.dtype | None = None, device: str = "cpu"
    ) -> SwarmModel:
        """Load embeddings, norm and head here and leave the blocks to the swarm.

        A chain computes in one dtype; None takes one that covers the model. Raises NoSuchModel,
        NoChain, CorruptWeights, or NotCovered with the blocks that nobody holds.
        """
        plan = trace(resolve(model))
        print_ = fingerprint(plan.model_dir)
        records = self.nodes_now()
        used = dtype or _covered_dtype(records, plan, print_)
        choose_chain(records, blocks=plan.blocks, fingerprint=print_, dtype=dtype_name(used))
        self._portal.call(self._measure, [record.node for record in records])
        runner = self._runner(plan, print_, used)
        ends = load_ends(plan, runner, dtype=used, device=torch.device(device))
        return SwarmModel(ends, plan, runner)

    def _runner(self, plan: ChainPlan, print_: str, dtype: torch.dtype) -> Runner:
        async def route(refused: set[NodeId]) -> tuple[Hop, ...]:
            snapshot = await self._member.directory.snapshot()
            return choose_chain(
                snapshot.records.values(),
                blocks=plan.blocks,
                fingerprint=print_,
                dtype=dtype_name(dtype),
                avoid=refused,
                links=self._rtts_ms,
            )

        def begin(chain: tuple[Hop, ...]) -> RemoteSession:
            return RemoteSession(self._member.switchboard, self._member.node_id, chain, print_)

        return Runner(
            self._portal, self._sessions, route=route, begin=begin, tokens=plan.context_tokens or 0
        )

    async def _measure(self, nodes: list[NodeId]) -> None:
        times = await asyncio.gather(*(self._ping(node) for node in nodes))
        pairs = zip(nodes, times, strict=True)
        self._rtts_ms = {node: rtt_ms for node, rtt_ms in pairs if rtt_ms is not None}

    async def _ping(self, node: NodeId) -> float | None:
        try:
            async with asyncio.timeout(5.0):
                await self._member.switchboard.ping(node)  # the first one dials
                return await self._member.switchboard.ping(node)
        except (TimeoutError, NodeLost):
            return None


def _covered_dtype(records: list[NodeRecord], plan: ChainPlan, print_: str) -> torch.dtype:
    """The dtype that most of the model's nodes compute in, among those that cover the model."""
    votes = Counter(record.dtype for record in records if record.fingerprint == print_)
    ranked = [name for name, _ in votes.most_common()]

    def gaps_left(name: str) -> bool:
        held = (record for record in records if record.fingerprint == print_)
        spans = (record.span for record in held if record.dtype == name)
        return bool(gaps(spans, plan.blocks))

    best = min(ranked, key=gaps_left, default="float32")
    return torch.bfloat16 if best == "bfloat16" else torch.float32


@contextlib.contextmanager
def joined(invite: str | Invite, *, listen: str | None = None) -> Generator[Swarm]:
    """Be a member of the invite's swarm for a while; see `join`, for plain code."""
    parsed = Invite.parse(invite) if isinstance(invite, str) else invite
    sessions = Sessions()
    with (
        start_blocking_portal("asyncio", name="shardline-network") as portal,
        portal.wrap_async_context_manager(_member(parsed, sessions, listen)) as member,
    ):
        yield Swarm(portal, member, sessions)


@contextlib.asynccontextmanager
async def join(invite: str | Invite, *, listen: str | None = None) -> AsyncGenerator[Swarm]:
    """Be a member of the invite's swarm for a while.

    `listen` HOST:PORT makes this member one that others can find the swarm by. Raises BadInvite,
    InviteExpired, ForeignInvite, ProtocolMismatch, or NodeLost when nobody answers.
    """
    stack = contextlib.ExitStack()
    swarm = await asyncio.to_thread(stack.enter_context, joined(invite, listen=listen))
    try:
        yield swarm
    finally:
        await asyncio.to_thread(stack.close)


@contextlib.asynccontextmanager
async def _member(invite: Invite, sessions: Sessions, listen: str | None) -> AsyncGenerator[Member]:
    def lost(peer: NodeId, error: ShardlineError) -> None:
        sessions.on_left(peer)

    async with (
        membership(
            invite,
            Identity.ephemeral(),
            listen=listen,
            on_message=sessions.on_message,
            on_lost=lost,
        ) as member,
        asyncio.TaskGroup() as tasks,
    ):
        watching = tasks.create_task(_watch(member, sessions))
        try:
            yield member
        finally:
            watching.cancel()


async def _watch(member: Member, sessions: Sessions) -> None:
    async with member.directory.watch() as changes:
        async for change in changes:
            if isinstance(change, Left):
                sessions.on_left(change.record.node)
