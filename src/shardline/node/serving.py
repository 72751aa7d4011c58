"""One serving machine, put together: join, choose a span, load it, serve, move, leave.

A node publishes what it will hold before it has loaded it (LOADING), so that others who choose at
the same time choose something else, and takes sessions once it has (READY).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec
import torch

from shardline.codec import WIRES
from shardline.core.clock import SystemClock
from shardline.core.ids import short
from shardline.core.spans import Span
from shardline.model import PagedLayer, computing_thread
from shardline.node.holding import Holding
from shardline.node.machine import Budget, memory_limit_bytes, open_device
from shardline.node.models import Held, open_model
from shardline.node.moving import Mover, Pace
from shardline.node.probing import Prober
from shardline.node.telling import Teller
from shardline.node.worker import Duty, Worker
from shardline.swarm import NodeRecord, State, choose_place, membership

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Sequence
    from concurrent.futures import ThreadPoolExecutor
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from shardline.core.errors import ShardlineError
    from shardline.core.ids import NodeId
    from shardline.core.segments import Segment
    from shardline.model import Kind
    from shardline.swarm import AddressBook, Identity, Invite, Member
    from shardline.wire import Message

__all__ = ["Person", "Serving", "Settings", "serve"]

_log = logging.getLogger(__name__)

LISTENS_MAX = 5
"""How often a newcomer listens for more nodes before it chooses blocks: in a large swarm somebody
always comes."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a person says when a machine starts to serve."""

    model: str
    """A directory or a hub id."""
    name: str
    listen: str | None
    """HOST:PORT; port 0 is any free one. None: nowhere, others come through a node we dial."""
    blocks: str = "auto"
    """`A:B`, or `auto` for the part of the model that the swarm lacks most."""
    device: str = "cpu"
    dtype: str | None = None
    """float32 or bfloat16; None is the checkpoint's own."""
    weights: Kind | None = None
    """How weights are held; None is in that dtype."""
    weights_folder: Path | None = None
    """Where quantised weights are kept for the next start."""
    cache: type[PagedLayer] = PagedLayer
    """How keys and values are held, by blocks that keep those of every token (0024)."""
    memory_bytes: int | None = None
    """For weights and cache together; None is most of what is free."""
    threads: int | None = None
    """Of the CPU; None is all."""
    wire: str = WIRES[-1]
    """The coarsest codec that it writes hidden states in, where a session allows it (0018)."""
    pace: Pace = field(default_factory=Pace)
    """How long it waits before and in a move. Tests shorten all of it: `serve --pace 0.02`, an
    option that is not shown, as in a real swarm news takes the time that it takes."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What a node tells its person once it serves."""

    record: NodeRecord
    listening: tuple[str, ...]
    weights_bytes: int
    load_s: float
    whole: tuple[str, ...] = ()
    """Large parameters that are not quantised as the others are."""
    cache_whole: int = 0
    """Blocks of the model that keep their cache as it is, though others hold it in fewer bits."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who started the node: is told how it goes, and says when it is over."""

    joined: Callable[[Invite, Sequence[str]], None]
    """Gets the swarm's invite and the addresses that this node listens on."""
    serving: Callable[[Serving], None]
    stop: asyncio.Event
    book: AddressBook | None = None
    """Where the swarm's addresses are kept for the next time."""


async def serve(settings: Settings, invite: Invite, identity: Identity, person: Person) -> None:
    """Serve until told to stop, then finish what is under way and leave.

    Raises BadInput of many kinds before it serves: each says what is wrong with the model, the
    invite, the address, the memory.
    """
    device = open_device(settings.device)
    threads = settings.threads or torch.get_num_threads()
    with computing_thread(threads, "shardline-engine") as thread:  # before any other computes
        held = Held(settings.dtype, settings.weights, settings.weights_folder, settings.cache)
        model = await asyncio.to_thread(open_model, settings.model, held, device)
        budget = Budget(model, memory_limit_bytes(settings.memory_bytes, device))
        auto = settings.blocks == "auto"
        wanted = None if auto else Span.parse(settings.blocks, blocks=budget.blocks)
        budget.check(wanted)
        mail = _Mail()
        async with _joining(settings, invite, identity, person.book, mail) as member:
            person.joined(member.invite, member.listening)
            clock = SystemClock()
            holding = Holding(budget, device, thread)
            record = _record(settings, identity.node_id, budget, wanted)
            teller = Teller(member, record, holding, clock)
            span = wanted or await _choose(teller, holding, budget, settings.pace.news_s)
            started_s = clock.monotonic_s()
            await teller.publish(start=span.start, stop=span.stop, placed_at_s=clock.wall_s())
            await holding.fetch(span)
            await holding.serve(span)
            async with asyncio.TaskGroup() as tasks:
                duty = Duty(identity.node_id, model.fingerprint, span, model.wires(settings.wire))
                worker = mail.worker = _worker(member, duty, holding, thread, tasks)
                rate = worker.tally.block_steps_per_s = await holding.measure()
                await teller.publish(state=State.READY, block_steps_per_s=rate)
                load_s = clock.monotonic_s() - started_s
                sizes = budget.span_bytes(span), load_s, *model.exceptions
                person.serving(Serving(teller.record, member.listening, *sizes))
                mover = Mover(teller, holding, worker, settings.pace, clock, model.step_bytes)
                prober = _prober(member, teller, worker, settings.pace)
                with _beside(tasks, mover.run(), prober.run()):
                    await teller.stay(worker, person.stop)
                await _leave(teller, worker, settings.pace)
                mail.worker = None  # what is under way is finished, nothing new is begun
            await member.directory.withdraw()


def _joining(
    settings: Settings, invite: Invite, identity: Identity, book: AddressBook | None, mail: _Mail
) -> AbstractAsyncContextManager[Member]:
    return membership(
        invite,
        identity,
        listen=settings.listen,
        on_message=mail.deliver,
        on_lost=mail.lost,
        serves=True,
        book=book,
    )


def _worker(
    member: Member,
    duty: Duty,
    holding: Holding,
    thread: ThreadPoolExecutor,
    tasks: asyncio.TaskGroup,
) -> Worker:
    """One whose steps are tasks of this group."""
    return Worker(
        holding.engine,
        duty,
        post=member.switchboard,
        thread=thread,
        clock=SystemClock(),
        spawn=tasks.create_task,
    )


@contextlib.contextmanager
def _beside(tasks: asyncio.TaskGroup, *work: Coroutine[None, None, None]) -> Generator[None]:
    """This work goes on while the context lasts."""
    started = [tasks.create_task(each) for each in work]
    yield
    for task in started:
        task.cancel()


def _prober(member: Member, teller: Teller, worker: Worker, pace: Pace) -> Prober:
    """One that asks whom the directory shows."""
    return Prober(
        member.switchboard,
        teller.links,
        teller.records,
        worker,
        pause_s=pace.probe_s,
        clock=SystemClock(),
    )


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


async def _leave(teller: Teller, worker: Worker, pace: Pace) -> None:
    """Say so, and give the callers time to take their sessions elsewhere."""
    await teller.publish(state=State.LEAVING, next_start=0, next_stop=0)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(pace.leave_s):
            await worker.vacant()
    worker.close()


async def _choose(teller: Teller, holding: Holding, budget: Budget, news_s: float) -> Span:
    """The span that the swarm lacks most, of as many blocks as fit here, at this node's speed and
    with its links.

    Who has just joined is linked to one member, hears of the others from it, and dials them only
    then: the choice waits until nobody new answers for `news_s`.
    """
    rate = await holding.try_out()
    records: list[NodeRecord] = []
    for _ in range(LISTENS_MAX):
        before = {record.node for record in records}
        await asyncio.sleep(news_s)
        records = await teller.records()
        if {record.node for record in records} <= before:
            break
    await teller.measure()
    me = msgspec.structs.replace(teller.record, block_steps_per_s=rate, **teller.links.told())
    return await asyncio.to_thread(choose_place, records, me, step_bytes=budget.model.step_bytes)


def _record(settings: Settings, node: NodeId, budget: Budget, wanted: Span | None) -> NodeRecord:
    """Before any blocks are chosen it names those that would fit from the first on."""
    span = wanted or Span(0, budget.fits())
    return NodeRecord(
        node=node,
        name=settings.name,
        shardline=version("shardline"),
        model=budget.model.name,
        fingerprint=budget.model.fingerprint,
        blocks=budget.blocks,
        start=span.start,
        stop=span.stop,
        state=State.LOADING,
        device=settings.device,
        dtype=budget.model.terms,
        memory_bytes=budget.memory_bytes,
        fits=budget.fits(),
        pinned=settings.blocks != "auto",
        codecs=WIRES,
    )
