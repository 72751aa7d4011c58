"""What a session needs of the swarm around it: who is there, which way to go, whom to tell."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from shardline.core.errors import NotCovered, ShardlineError, TryElsewhere
from shardline.swarm import State, choose_chain

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from shardline.core.ids import NodeId
    from shardline.core.segments import Segment
    from shardline.core.spans import Span
    from shardline.swarm import Hop, Member, NodeRecord
    from shardline.wire import Message

__all__ = ["ChainBroken", "Mended", "Post", "Surroundings", "SwarmAround", "Wanted"]


class ChainBroken(TryElsewhere):
    """A node of a chain failed and could not be replaced; `cause` says how it failed."""

    def __init__(self, node: NodeId, cause: ShardlineError) -> None:
        super().__init__(str(cause))
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


class Post(Protocol):
    """What a session asks of the switchboard."""

    async def send(self, peer: NodeId, message: Message, segments: Sequence[Segment] = ()) -> None:
        """Deliver to a peer's handler, dialling it if needed."""
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

    async def route(
        self, within: Span, avoid: Collection[NodeId], *, tokens: int
    ) -> tuple[Hop, ...]:
        """A chain for these blocks; raises NotCovered with every gap named."""
        ...

    def leaving(self, chain: tuple[Hop, ...]) -> set[NodeId]:
        """Nodes of the chain that should be left, as others can take over."""
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

    async def route(
        self, within: Span, avoid: Collection[NodeId], *, tokens: int
    ) -> tuple[Hop, ...]:
        """See Surroundings; by the records that were last heard."""
        return self._choose(within, avoid)

    def leaving(self, chain: tuple[Hop, ...]) -> set[NodeId]:
        """See Surroundings."""
        said = {
            hop.node
            for hop in chain
            if hop.node in self._records and self._records[hop.node].state is State.LEAVING
        }
        try:
            for hop in chain:
                if hop.node in said:
                    self._choose(hop.span, said)
        except NotCovered:
            return set()
        return said

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

    def _choose(self, within: Span, avoid: Collection[NodeId]) -> tuple[Hop, ...]:
        return choose_chain(
            self._records.values(),
            blocks=self._wanted.blocks,
            fingerprint=self._wanted.fingerprint,
            dtype=self._wanted.dtype,
            avoid=avoid,
            links=self.links_ms,
            within=within,
        )
