"""A short visit to a swarm: who is here, and how far from this machine."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from shardline.cli.options import address_book
from shardline.core.errors import ShardlineError
from shardline.swarm import Identity, membership

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from shardline.core.ids import NodeId
    from shardline.swarm import Invite, Member, NodeRecord

__all__ = ["GRAPH", "everybody", "parts", "round_trips_ms", "visiting"]

GRAPH = "graph"
"""What a record has in place of a dtype where stages are served; as in `model`, which is imported
later: a test holds them equal."""

LOOKS = 10
LOOK_S = 0.5
"""Who has just joined hears of the nodes one by one: so often it asks again, so long between."""

PING_S = 5.0
"""How long a node may take to be dialled and to answer twice."""


def parts(record: NodeRecord) -> str:
    """What this node's model is cut into, for a person: blocks, or a graph's stages."""
    return "stages" if record.dtype == GRAPH else "blocks"


@asynccontextmanager
async def visiting(invite: Invite) -> AsyncGenerator[Member]:
    """Be a member that serves nothing and is asked nothing; raises what `membership` does."""

    def nothing(*_: object) -> None:
        """Nobody has anything to say to a visitor."""

    async with membership(
        invite,
        Identity.ephemeral(),
        listen=None,
        on_message=nothing,
        on_lost=nothing,
        book=address_book(),
    ) as member:
        yield member


async def everybody(member: Member) -> dict[NodeId, NodeRecord]:
    """All nodes: asked again until those are heard too that others have just measured."""
    found: dict[NodeId, NodeRecord] = {}
    for _ in range(LOOKS):
        found |= (await member.directory.snapshot()).records
        if found and {node for record in found.values() for node in record.links} <= found.keys():
            break
        await asyncio.sleep(LOOK_S)
    return found


async def round_trips_ms(member: Member, nodes: Iterable[NodeId]) -> dict[NodeId, float | None]:
    """From this machine; None for who does not answer."""
    known = list(nodes)
    times = await asyncio.gather(*(_ping(member, node) for node in known))
    return dict(zip(known, times, strict=True))


async def _ping(member: Member, node: NodeId) -> float | None:
    try:
        async with asyncio.timeout(PING_S):
            await member.switchboard.ping(node)  # the first one dials
            return await member.switchboard.ping(node)
    except (TimeoutError, ShardlineError):
        return None
