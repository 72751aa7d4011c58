"""Joining a swarm from Python: `async with shardline.join(invite) as swarm`.

The network lives on an event loop in a thread of its own, so that a model can be called from
plain code, from a notebook and from under another event loop alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from anyio.from_thread import start_blocking_portal

from shardline.client.graph import GraphRunner, SwarmGraph
from shardline.client.model import SwarmModel
from shardline.client.prefixes import Naming
from shardline.client.runner import Runner
from shardline.client.session import RemoteSession
from shardline.client.sessions import Sessions
from shardline.client.surroundings import EXACT, SwarmAround, Wanted
from shardline.codec import dtype_name
from shardline.core.errors import NodeLost, ShardlineError
from shardline.core.spans import Span, gaps
from shardline.model import CACHES, fingerprint, is_graph, load_ends, open_graph, resolve, trace
from shardline.swarm import Identity, Invite, Left, State, choose_chain, membership

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Sequence

    from anyio.from_thread import BlockingPortal

    from shardline.client.surroundings import Mended, Terms
    from shardline.core.ids import NodeId
    from shardline.model import ChainPlan, GraphPlan
    from shardline.swarm import AddressBook, Member, NodeRecord

__all__ = ["Swarm", "join", "joined"]


_log = logging.getLogger(__name__)

MEASURE_S = 5.0
"""How long a node may take to be dialled and to answer twice."""


def _log_news(news: Mended | str) -> None:
    _log.warning("%s", news)


class Swarm:
    """A caller's view of one swarm; made by `join` or `joined`."""

    def __init__(self, portal: BlockingPortal, caller: _Caller) -> None:
        self._portal = portal
        self._caller = caller
        self._member = caller.member

    @property
    def invite(self) -> Invite:
        """The invite by which others find this member too, if it listens."""
        return self._member.invite

    async def nodes(self) -> list[NodeRecord]:
        """The live nodes' records, by name."""
        return await asyncio.to_thread(self.nodes_now)

    async def model(  # noqa: PLR0913  (options, each with a default)
        self,
        model: str,
        *,
        dtype: torch.dtype | None = None,
        device: str = "cpu",
        standby: int = 0,
        terms: Terms = EXACT,
        share_prefixes: bool = False,
        tell: Callable[[Mended | str], None] = _log_news,
    ) -> SwarmModel:
        """The model of this directory or hub id, with its blocks on the swarm; see `model_now`."""
        load = functools.partial(self.model_now, dtype=dtype, device=device, standby=standby)
        load = functools.partial(load, terms=terms, share_prefixes=share_prefixes, tell=tell)
        return await asyncio.to_thread(load, model)

    def nodes_now(self) -> list[NodeRecord]:
        """As `nodes`, for plain code."""
        snapshot = self._portal.call(self._member.directory.snapshot)
        return sorted(snapshot.records.values(), key=lambda record: (record.start, record.name))

    def model_now(  # noqa: PLR0913  (options, each with a default)
        self,
        model: str,
        *,
        dtype: torch.dtype | None = None,
        device: str = "cpu",
        standby: int = 0,
        terms: Terms = EXACT,
        share_prefixes: bool = False,
        tell: Callable[[Mended | str], None] = _log_news,
    ) -> SwarmModel:
        """Load embeddings, norm and head here and leave the blocks to the swarm.

        A chain computes in one dtype; None takes one that covers the model. With `standby` 1, a
        second node for each hop is kept warm, where there is one. Hidden states cross exactly,
        unless `terms` allow less. With `share_prefixes` the nodes keep what they computed of this
        model's prompts, so that later ones that begin alike begin behind it; not beside standbys,
        which need it whole. `tell` hears, on the network's thread, of chains that were mended
        and of blocks that nobody holds. Of a directory that holds a cut graph it is a SwarmGraph:
        nothing to generate with, no standbys. Raises BadInput for odd terms, NoSuchModel, NoChain,
        CorruptWeights, or NotCovered with the blocks that nobody holds.
        """
        terms.check()
        if is_graph(Path(model).expanduser()):
            return self._graph(open_graph(Path(model).expanduser()), terms, tell)
        plan = trace(resolve(model))
        print_ = fingerprint(plan.model_dir)
        records = self.nodes_now()
        held = dtype_name(dtype) if dtype else _covered_dtype(records, plan, print_)
        around = self._around(Wanted(plan.blocks, print_, held), records, tell)
        runner = Runner(
            self._portal,
            self._caller.sessions,
            begin=lambda start: RemoteSession(
                around, print_, plan.chain_at(start).span, standby=bool(standby), terms=terms
            ),
            tokens=plan.context_tokens or 0,
        )
        name, *fewer = held.split("+")
        if fewer:
            tell(f"the nodes hold this model's {_in_fewer_bits(fewer)}: its text is not exact")
        used = torch.bfloat16 if name == "bfloat16" else torch.float32
        ends = load_ends(plan, runner, dtype=used, device=torch.device(device))
        naming = Naming(f"{print_} {held} {terms}") if share_prefixes else None
        return SwarmModel(ends, plan, runner, naming)

    def _graph(
        self, plan: GraphPlan, terms: Terms, tell: Callable[[Mended | str], None]
    ) -> SwarmGraph:
        """A cut graph's stages on the swarm."""
        signature = plan.signature()
        wanted = Wanted(plan.blocks, plan.fingerprint, plan.terms)
        around = self._around(wanted, self.nodes_now(), tell)
        runner = GraphRunner(
            plan,
            signature,
            self._portal,
            self._caller.sessions,
            begin=lambda start: RemoteSession(
                around, plan.fingerprint, Span(start, plan.blocks), terms=terms
            ),
        )
        return SwarmGraph(plan, signature, runner)

    def _around(
        self, wanted: Wanted, records: list[NodeRecord], tell: Callable[[Mended | str], None]
    ) -> SwarmAround:
        """What a model's sessions need to know; raises NotCovered if nobody holds some blocks."""
        choose_chain(
            records, blocks=wanted.blocks, fingerprint=wanted.fingerprint, dtype=wanted.dtype
        )
        around = SwarmAround(self._member, self._caller.records, wanted, tell)
        self._portal.call(self._caller.get_ready, records, around)
        return around


@dataclass(slots=True)
class _Caller:
    """What the network's thread keeps: the member, its sessions, and who is there."""

    member: Member
    sessions: Sessions
    records: dict[NodeId, NodeRecord] = field(default_factory=dict["NodeId", "NodeRecord"])

    async def get_ready(self, records: list[NodeRecord], around: SwarmAround) -> None:
        """Know these nodes, dial them, and measure the way to each."""
        for record in records:
            self.records.setdefault(record.node, record)
        times = await asyncio.gather(*(self._ping(record.node) for record in records))
        for record, rtt_ms in zip(records, times, strict=True):
            if rtt_ms is not None:
                around.links_ms[record.node] = rtt_ms

    async def watch(self) -> None:
        """Keep the records as the directory says, and tell the sessions who comes and goes."""
        async with self.member.directory.watch() as changes:
            async for change in changes:
                node = change.record.node
                if isinstance(change, Left):
                    self.records.pop(node, None)
                    self.sessions.on_gone(node, NodeLost(f"node {change.record.name} went away"))
                    continue
                known = self.records.get(node)
                self.records[node] = change.record
                ready = change.record.state is State.READY
                if known is None or known.state is not State.READY:
                    news = ready
                else:
                    news = ready and known.span != change.record.span
                if news:
                    self.sessions.on_joined(node)

    async def _ping(self, node: NodeId) -> float | None:
        try:
            async with asyncio.timeout(MEASURE_S):
                await self.member.switchboard.ping(node)  # the first one dials
                return await self.member.switchboard.ping(node)
        except (TimeoutError, ShardlineError):  # one bad node is no reason to go without the rest
            return None


def _covered_dtype(records: list[NodeRecord], plan: ChainPlan, print_: str) -> str:
    """What most of the model's nodes compute in, among those that cover it, exact ones first."""
    votes = Counter(record.dtype for record in records if record.fingerprint == print_)
    ranked = [name for name, _ in votes.most_common()]

    def shortfall(name: str) -> tuple[bool, int]:
        held = (record for record in records if record.fingerprint == print_)
        spans = (record.span for record in held if record.dtype == name)
        return bool(gaps(spans, plan.blocks)), name.count("+")

    return min(ranked, key=shortfall, default="float32")


def _in_fewer_bits(words: Sequence[str]) -> str:
    """For a person: what these words of a chain's terms are about."""
    caches = {kind.word: name for name, kind in CACHES.items()}
    return " and ".join(
        f"cache in {caches[word]}" if word in caches else f"weights in {word}" for word in words
    )


@contextlib.contextmanager
def joined(
    invite: str | Invite, *, listen: str | None = None, book: AddressBook | None = None
) -> Generator[Swarm]:
    """Be a member of the invite's swarm for a while; see `join`, for plain code."""
    parsed = Invite.parse(invite) if isinstance(invite, str) else invite
    with (
        start_blocking_portal("asyncio", name="shardline-network") as portal,
        portal.wrap_async_context_manager(_calling(parsed, listen, book)) as caller,
    ):
        yield Swarm(portal, caller)


@contextlib.asynccontextmanager
async def join(
    invite: str | Invite, *, listen: str | None = None, book: AddressBook | None = None
) -> AsyncGenerator[Swarm]:
    """Be a member of the invite's swarm for a while.

    `listen` HOST:PORT makes this member one that others can find the swarm by; `book` keeps
    the nodes' addresses for the next time, when the invite's may be gone. Raises BadInvite,
    InviteExpired, ForeignInvite, ProtocolMismatch, or NodeLost when nobody answers.
    """
    stack = contextlib.ExitStack()
    swarm = await asyncio.to_thread(stack.enter_context, joined(invite, listen=listen, book=book))
    try:
        yield swarm
    finally:
        await asyncio.to_thread(stack.close)


@contextlib.asynccontextmanager
async def _calling(
    invite: Invite, listen: str | None, book: AddressBook | None
) -> AsyncGenerator[_Caller]:
    sessions = Sessions()
    joining = membership(
        invite,
        Identity.ephemeral(),
        listen=listen,
        on_message=sessions.on_message,
        on_lost=sessions.on_gone,
        book=book,
    )
    async with joining as member, asyncio.TaskGroup() as tasks:
        caller = _Caller(member, sessions)
        watching = tasks.create_task(caller.watch())
        try:
            yield caller
        finally:
            watching.cancel()
