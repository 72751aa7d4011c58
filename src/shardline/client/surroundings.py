"""What a session needs of the swarm around it: who is there, which way to go, whom to tell."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from shardline.codec import BLOCK, WIRES, coarsest, encoder, exactly
from shardline.core.errors import NotCovered, ShardlineError, TryElsewhere
from shardline.core.ids import short
from shardline.swarm import Bans, State, Stragglers, choose_chain

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from shardline.codec import Encoder
    from shardline.core.ids import NodeId
    from shardline.core.segments import Segment
    from shardline.core.spans import Span
    from shardline.swarm import Hop, Member, NodeRecord
    from shardline.wire import Message

__all__ = [
    "EXACT",
    "ChainBroken",
    "Mended",
    "Need",
    "Post",
    "Surroundings",
    "SwarmAround",
    "Terms",
    "Wanted",
]


class ChainBroken(TryElsewhere):
    """A node of a chain failed and could not be replaced; `cause` says how it failed."""

    def __init__(self, node: NodeId, cause: ShardlineError) -> None:
        text = str(cause)
        super().__init__(text if short(node) in text else f"node {short(node)}: {text}")
        self.node = node
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Mended:
    """A chain lost these hops, and these took over."""

    lost: tuple[Hop, ...]
    hops: tuple[Hop, ...]
    reasons: tuple[str, ...]
    step: int
    """The step that was under way; as many are replayed."""
    took_s: float
    """Until the notes were on their way; the step goes on once they are replayed."""
    standby: bool = False
    """Whether those that took over were standbys, with nothing to replay."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a chain is for."""

    tokens: int = 0
    """Cache tokens that each of its nodes should have free."""
    session: str | None = None
    """Sessions spread over nodes that are equal."""
    before: NodeId | None = None
    after: NodeId | None = None
    """The nodes that it will hang between; None is the caller."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How coarsely a session's hidden states may cross its links (decision 0018)."""

    wire: str = WIRES[0]
    """A codec. What is finer is allowed too."""
    block: int = BLOCK
    """The most elements that share a scale, where the codec has scales."""

    def check(self) -> None:
        """Raise BadInput for a codec or a block size that is not to be had."""
        encoder(self.wire, block=self.block)

    def to(self, reads: Collection[str]) -> str:
        """The coarsest codec for a node that reads these."""
        return coarsest(reads, self.wire)

    def encoder(self, reads: Collection[str]) -> Encoder:
        """What writes for a node that reads these."""
        return encoder(self.to(reads), block=self.block)

    def readable(self, segments: Sequence[Segment], reads: Collection[str]) -> Sequence[Segment]:
        """What was written on these terms, with the same values, for a node that reads these."""
        return exactly(segments) if self.wire != self.to(reads) else segments


EXACT: Final = Terms()


class Post(Protocol):
    """What a session asks of the switchboard."""

    async def send(self, peer: NodeId, message: Message, segments: Sequence[Segment] = ()) -> None:
        """Deliver to a peer's handler, dialling it if needed."""
        ...

    def send_now(self, peer: NodeId, message: Message, segments: Sequence[Segment] = ()) -> bool:
        """As `send`, if that takes no wait; False if it would, and `send` must be used."""
        ...


class Surroundings(Protocol):
    """What a session asks of the swarm."""

    @property
    def me(self) -> NodeId:
        """Who calls."""
        ...

    @property
    def post(self) -> Post:
        """The way to every node."""
        ...

    def route(self, within: Span, avoid: Collection[NodeId], need: Need) -> tuple[Hop, ...]:
        """A chain for these blocks; raises NotCovered with every gap named."""
        ...

    def reads(self, node: NodeId) -> Collection[str]:
        """The codecs that it reads, by its record; raw without one."""
        ...

    def judge(self, node: NodeId, block_s: float) -> None:
        """A node took this long a block for a single token."""
        ...

    def failed(self, node: NodeId) -> None:
        """A node failed a session: others are asked first for a while."""
        ...

    def leaving(self, chain: tuple[Hop, ...], avoid: Collection[NodeId]) -> dict[NodeId, str]:
        """Nodes of the chain that should be left, as others not to avoid can take over; and why."""
        ...

    async def alive(self, node: NodeId, wait_s: float) -> bool:
        """Whether the node gives a sign of life within this time."""
        ...

    def tell(self, news: Mended | str) -> None:
        """Let the person know."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which nodes can be in a chain: of this model, computing in this dtype."""

    blocks: int
    fingerprint: str
    dtype: str


class SwarmAround:
    """The surroundings of one model's sessions, by what the directory says."""

    def __init__(
        self,
        member: Member,
        records: dict[NodeId, NodeRecord],
        wanted: Wanted,
        tell: Callable[[Mended | str], None],
    ) -> None:
        self._member = member
        self._records = records
        self._wanted = wanted
        self._tell = tell
        self._bans = Bans()
        self._stragglers = Stragglers()
        self.links_ms: dict[NodeId, float] = {}
        """Round-trip times from here, as far as measured."""

    @property
    def me(self) -> NodeId:
        """See Surroundings."""
        return self._member.node_id

    @property
    def post(self) -> Post:
        """See Surroundings."""
        return self._member.switchboard

    def route(self, within: Span, avoid: Collection[NodeId], need: Need) -> tuple[Hop, ...]:
        """See Surroundings; by the records that were last heard."""
        return choose_chain(
            self._records.values(),
            blocks=self._wanted.blocks,
            fingerprint=self._wanted.fingerprint,
            dtype=self._wanted.dtype,
            within=within,
            before=need.before,
            after=need.after,
            avoid=avoid,
            discouraged=self._bans.avoid(self._now_s()),
            links=self.links_ms,
            tokens=need.tokens,
            salt=need.session,
        )

    def reads(self, node: NodeId) -> Collection[str]:
        """See Surroundings."""
        record = self._records.get(node)
        return (WIRES[0],) if record is None else record.codecs

    def judge(self, node: NodeId, block_s: float) -> None:
        """See Surroundings."""
        if self._stragglers.add(node, block_s):
            self._bans.failed(node, self._now_s())

    def failed(self, node: NodeId) -> None:
        """See Surroundings."""
        self._bans.failed(node, self._now_s())
        self._stragglers.forget(node)

    def leaving(self, chain: tuple[Hop, ...], avoid: Collection[NodeId]) -> dict[NodeId, str]:
        """See Surroundings."""
        found = {hop.node: reason for hop in chain if (reason := self._reason_to_leave(hop))}
        moved = {hop.node for hop in chain if self._moved(hop)}  # and may hold a part of it still
        try:
            for hop in chain:
                if hop.node in found:
                    self.route(hop.span, (found.keys() - moved) | set(avoid), Need())
        except NotCovered:
            return {}
        return found

    def _moved(self, hop: Hop) -> NodeRecord | None:
        """The node's record, if it does not hold the hop's blocks any more."""
        record, span = self._records.get(hop.node), hop.span
        if record is None or record.start <= span.start < span.stop <= record.stop:
            return None
        return record

    def _reason_to_leave(self, hop: Hop) -> str | None:
        node, record = hop.node, self._records.get(hop.node)
        if record is not None and record.state is State.LEAVING:
            return f"node {record.name} is leaving"
        if (moved := self._moved(hop)) is not None:
            return f"node {moved.name} moved to blocks {moved.moves_to or moved.span}"
        if self._stragglers.is_straggler(node):
            return f"node {record.name if record else short(node)} became slow"
        return None

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()

    async def alive(self, node: NodeId, wait_s: float) -> bool:
        """See Surroundings."""
        try:
            async with asyncio.timeout(wait_s):
                await self._member.switchboard.ping(node)
        except (TimeoutError, ShardlineError):
            return False
        return True

    def tell(self, news: Mended | str) -> None:
        """See Surroundings."""
        self._tell(news)
