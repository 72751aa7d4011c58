"""One serving machine, put together: join, choose a span, load it, serve, leave.

A node publishes what it will hold before it has loaded it (LOADING), so that others who choose at
the same time choose something else, and takes sessions once it has (READY).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec
import torch

from shardline.codec import dtype_name
from shardline.core.clock import SystemClock
from shardline.core.errors import ShardlineError
from shardline.core.ids import short
from shardline.core.spans import Span
from shardline.model import fingerprint, load_span, resolve, trace
from shardline.node.machine import Budget, memory_limit_bytes, open_device
from shardline.node.worker import Duty, Worker
from shardline.runtime import SpanEngine
from shardline.swarm import NodeRecord, State, choose_span, membership, renew

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shardline.core.clock import Clock
    from shardline.core.ids import NodeId
    from shardline.core.segments import Segment
    from shardline.model import ChainPlan, LoadedSpan
    from shardline.swarm import Identity, Invite, Member
    from shardline.wire import Message

__all__ = ["Person", "Serving", "Settings", "serve"]

_log = logging.getLogger(__name__)

HEARTBEAT_S = 5.0
"""How often a node says how full it is. Oftener tells callers more and costs each member a record;
deaths are noticed by presence, not by this."""
RECORD_LIFE_S = 60.0
"""How long a record counts without being renewed: a dozen heartbeats."""
LEAVE_S = 5.0
"""How long a leaving node waits for its sessions to move. Longer spares callers a replay, shorter
lets the machine go."""
LINKS_MAX = 64
"""Neighbours measured at each heartbeat; a larger swarm needs a sample, which issue B chooses."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a person says when a machine starts to serve."""

    model: str
    """A directory or a hub id."""
    name: str
    listen: str
    """HOST:PORT; port 0 is any free one."""
    blocks: str = "auto"
    """`A:B`, or `auto` for the part of the model that the swarm lacks most."""
    device: str = "cpu"
    dtype: str | None = None
    """float32 or bfloat16; None is the checkpoint's own."""
    memory_bytes: int | None = None
    """For weights and cache together; None is most of what is free."""
    threads: int | None = None
    """Of the CPU; None is all."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What a node tells its person once it serves."""

    record: NodeRecord
    listening: tuple[str, ...]
    weights_bytes: int
    load_s: float


@dataclass(frozen=True, slots=True)
class Person:
    """Who started the node: is told how it goes, and says when it is over."""

    joined: Callable[[Invite, Sequence[str]], None]
    """Gets the swarm's invite and the addresses that this node listens on."""
    serving: Callable[[Serving], None]
    stop: asyncio.Event


async def serve(
    settings: Settings,
    invite: Invite,
    identity: Identity,
    person: Person,
) -> None:
    """Serve until told to stop, then finish what is under way and leave.

    Raises BadInput of many kinds before it serves: each says what is wrong with the model, the
    invite, the address, the memory.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    device = open_device(settings.device)
    plan, print_ = await asyncio.to_thread(_study, settings.model)
    memory_bytes = memory_limit_bytes(settings.memory_bytes, device)
    budget = Budget(plan, _dtype(settings, plan), memory_bytes)
    wanted = None if settings.blocks == "auto" else Span.parse(settings.blocks, blocks=plan.blocks)
    budget.check(wanted)
    mail = _Mail()
    joining = membership(
        invite, identity, listen=settings.listen, on_message=mail.deliver, on_lost=mail.lost
    )
    async with joining as member:
        person.joined(member.invite, member.listening)
        span = wanted or await _choose(member, budget, print_)
        record = _record(settings, identity.node_id, budget, span, print_)
        with ThreadPoolExecutor(1, "shardline-engine") as thread:
            node = _Node(member, record, budget, thread)
            started_s = node.clock.monotonic_s()
            engine = await node.load(device)
            async with asyncio.TaskGroup() as tasks:
                mail.worker = node.put_to_work(engine, tasks)
                await node.publish(State.READY, **node.fullness(engine))
                person.serving(
                    Serving(
                        record=node.record,
                        listening=member.listening,
                        weights_bytes=budget.span_bytes(span),
                        load_s=node.clock.monotonic_s() - started_s,
                    )
                )
                await node.stay(engine, mail.worker, person.stop)
                await node.leave(mail.worker)
                mail.worker = None  # what is under way is finished, nothing new is begun
        await member.directory.withdraw()


class _Mail:
    """Takes messages from the first moment on, and gives them to the worker once there is one."""

    def __init__(self) -> None:
        self.worker: Worker | None = None

    def deliver(self, peer: NodeId, message: Message, segments: Sequence[Segment]) -> None:
        """Before the node is READY nobody may ask it for anything: what comes is dropped."""
        if self.worker is not None:
            self.worker.on_message(peer, message, segments)

    def lost(self, peer: NodeId, error: ShardlineError) -> None:
        """A link broke; sessions outlive it for a while."""
        _log.info("%s: %s", short(peer), error)
        if self.worker is not None:
            self.worker.on_lost(peer, error)


class _Node:
    """The parts of a serving node, and its record."""

    def __init__(
        self, member: Member, record: NodeRecord, budget: Budget, thread: ThreadPoolExecutor
    ) -> None:
        self.clock: Clock = SystemClock()
        self.record = record
        self._budget = budget
        self._member = member
        self._thread = thread

    async def load(self, device: torch.device) -> SpanEngine:
        """Say which span it will be, then read its weights."""
        await self.publish(State.LOADING)
        span, budget = self.record.span, self._budget

        def read() -> LoadedSpan:
            loaded = load_span(budget.plan, span, dtype=budget.dtype, device=device)
            loaded.warm()
            return loaded

        loaded = await asyncio.get_running_loop().run_in_executor(self._thread, read)
        return SpanEngine(loaded, cache_tokens=budget.cache_tokens(span))

    def put_to_work(self, engine: SpanEngine, tasks: asyncio.TaskGroup) -> Worker:
        """A worker whose steps are tasks of this group."""
        duty = Duty(self.record.node, self.record.fingerprint, self.record.span)
        return Worker(
            engine,
            duty,
            post=self._member.switchboard,
            thread=self._thread,
            clock=self.clock,
            spawn=tasks.create_task,
        )

    async def stay(self, engine: SpanEngine, worker: Worker, stop: asyncio.Event) -> None:
        """Renew the record with how full and how fast this node is, until told to stop."""
        since_s, before_s = self.clock.monotonic_s(), 0.0
        while not stop.is_set():
            links = await self._links()
            now_s, busy_s = self.clock.monotonic_s(), worker.tally.compute_s
            share = (busy_s - before_s) / max(now_s - since_s, 1e-3)
            since_s, before_s = now_s, busy_s
            await self.publish(
                State.READY,
                links=links,
                load=min(max(share, 0.0), 1.0),
                block_steps_per_s=worker.tally.block_steps_per_s,
                **self.fullness(engine),
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await stop.wait()
            await worker.expire()

    def fullness(self, engine: SpanEngine) -> dict[str, int]:
        """Sessions, and memory for weights and cache, as far as they are promised."""
        report, span = engine.report(), self.record.span
        taken = report.cache_tokens_total - report.cache_tokens_free
        each_bytes = self._budget.plan.cache_bytes_per_token(self._budget.dtype, span)
        return {
            "sessions": report.sessions,
            "cache_tokens_free": report.cache_tokens_free,
            "cache_tokens_total": report.cache_tokens_total,
            "memory_used_bytes": self._budget.span_bytes(span) + taken * each_bytes,
        }

    async def leave(self, worker: Worker) -> None:
        """Say so, and give the callers time to take their sessions elsewhere."""
        await self.publish(State.LEAVING)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await worker.vacant()
        worker.close()

    async def publish(self, state: State, **changes: object) -> None:
        """Put the renewed record into the directory."""
        changed = msgspec.structs.replace(self.record, state=state, **changes)
        self.record = renew(changed, now_s=self.clock.wall_s(), life_s=RECORD_LIFE_S)
        await self._member.directory.publish(self.record)

    async def _links(self) -> dict[NodeId, float]:
        """Round-trip times in ms to the other nodes, as far as they answer."""
        snapshot = await self._member.directory.snapshot()
        others = [node for node in snapshot.records if node != self.record.node][:LINKS_MAX]
        times = await asyncio.gather(*(self._ping(node) for node in others))
        pairs = zip(others, times, strict=True)
        return {node: round(rtt_ms, 3) for node, rtt_ms in pairs if rtt_ms is not None}

    async def _ping(self, node: NodeId) -> float | None:
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                return await self._member.switchboard.ping(node)
        except (TimeoutError, ShardlineError):
            return None


def _study(model: str) -> tuple[ChainPlan, str]:
    plan = trace(resolve(model))
    return plan, fingerprint(plan.model_dir)


def _dtype(settings: Settings, plan: ChainPlan) -> torch.dtype:
    own = settings.dtype or str(plan.config.dtype).removeprefix("torch.")
    return torch.float32 if own == "float32" else torch.bfloat16


async def _choose(member: Member, budget: Budget, print_: str) -> Span:
    """The span that the swarm lacks most, of as many blocks as fit here."""
    snapshot = await member.directory.snapshot()
    others = [record for record in snapshot.records.values() if record.fingerprint == print_]
    return choose_span(others, blocks=budget.plan.blocks, fits=budget.fits())


def _record(
    settings: Settings, node: NodeId, budget: Budget, span: Span, print_: str
) -> NodeRecord:
    return NodeRecord(
        node=node,
        name=settings.name,
        shardline=version("shardline"),
        model=budget.plan.model_dir.name,
        fingerprint=print_,
        blocks=budget.plan.blocks,
        start=span.start,
        stop=span.stop,
        state=State.LOADING,
        device=settings.device,
        dtype=dtype_name(budget.dtype),
        memory_bytes=budget.memory_bytes,
    )
