"""The shortest chain of nodes through all blocks (BSNS, PAPER section 1).

A pure search over (node, block): going on within a node costs its block's time, changing the node
costs half the round trip between the two and a constant for frames, queues and wake-ups. This is
the latency rule of the runtime family that BSNS builds on (Petals), with measured times where they
are known. Issue B adds queues, free cache and bans to the cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardline.core.errors import NotCovered
from shardline.core.spans import Span, gaps
from shardline.swarm.records import NodeRecord, State

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from shardline.core.ids import NodeId

__all__ = ["Hop", "choose_chain"]

HOP_MS = 1.0
"""What each hop costs beside its link; a larger value gives shorter chains."""
RTT_UNKNOWN_MS = 50.0
"""A link nobody has measured: worse than a LAN, so that a known good one is preferred."""
BLOCK_UNKNOWN_MS = 5.0
"""A block's time on a node that has not measured yet."""
_NAMES_MAX = 3


@dataclass(frozen=True, slots=True)
class Hop:
    """One node's part of a chain; `span` lies within the node's own."""

    node: NodeId
    span: Span


@dataclass(frozen=True, slots=True)
class _Way:
    """The cheapest way through the blocks so far that ends on `node`."""

    cost_ms: float
    hops: int
    node: NodeId
    back: _Way | None

    @property
    def rank(self) -> tuple[float, int, NodeId]:
        return self.cost_ms, self.hops, self.node


def choose_chain(  # noqa: PLR0913 - each names one part of what is asked
    records: Iterable[NodeRecord],
    *,
    blocks: int,
    fingerprint: str,
    dtype: str | None = None,
    avoid: Collection[NodeId] = (),
    links: Mapping[NodeId, float] | None = None,
) -> tuple[Hop, ...]:
    """The cheapest chain of ready nodes that passes each of the blocks [0, blocks) once, in order.

    `fingerprint` is the model to serve, `dtype` the only one to accept, `avoid` names nodes never
    to use, `links` holds the caller's own round-trip times in ms. A node is in a chain at most
    once. Raises NotCovered with every gap named.
    """
    known = list(records)
    usable = {
        record.node: record
        for record in sorted(known, key=lambda record: record.node)
        if record.state is State.READY
        and record.node not in avoid
        and record.fingerprint == fingerprint
        and record.blocks == blocks
        and dtype in {None, record.dtype}
    }
    missing = gaps((record.span for record in usable.values()), blocks)
    if missing:
        raise NotCovered(_explain(missing, known, fingerprint, dtype, avoid))
    costs = _Costs(usable, links or {})
    ways: list[_Way] = []
    for block in range(blocks):
        holders = [record for record in usable.values() if block in record.span]
        ways = [costs.arrive(record, ways) for record in holders]
    best = min(ways, key=lambda way: (way.cost_ms + costs.link_ms(way.node, None), *way.rank))
    return _chain(best, blocks)


class _Costs:
    """What hops and blocks cost in ms; the caller is the node None."""

    def __init__(self, usable: Mapping[NodeId, NodeRecord], own: Mapping[NodeId, float]) -> None:
        self._usable = usable
        self._own = own

    def link_ms(self, left: NodeId, right: NodeId | None) -> float:
        """One way between two nodes, as either of them measured it."""
        if right is None:
            return self._own.get(left, RTT_UNKNOWN_MS) / 2
        measured = self._usable[left].links.get(right, self._usable[right].links.get(left))
        return (RTT_UNKNOWN_MS if measured is None else measured) / 2

    def arrive(self, record: NodeRecord, ways: list[_Way]) -> _Way:
        """The cheapest way that passes one more block, on this node."""
        node, rate = record.node, record.block_steps_per_s
        block_ms = 1000 / rate if rate else BLOCK_UNKNOWN_MS
        if not ways:
            return _Way(HOP_MS + self.link_ms(node, None) + block_ms, 1, node, None)
        options = [
            _Way(way.cost_ms + block_ms, way.hops, node, way)
            if way.node == node
            else _Way(
                way.cost_ms + HOP_MS + self.link_ms(way.node, node) + block_ms,
                way.hops + 1,
                node,
                way,
            )
            for way in ways
        ]
        return min(options, key=lambda option: (option.cost_ms, option.hops))


def _chain(way: _Way, blocks: int) -> tuple[Hop, ...]:
    """The way as hops. A node that it comes back to keeps what lies between: it holds that too."""
    nodes: list[NodeId] = []
    step: _Way | None = way
    while step is not None:
        nodes.append(step.node)
        step = step.back
    nodes.reverse()
    hops: list[Hop] = []
    start = 0
    while start < blocks:
        stop = blocks - nodes[::-1].index(nodes[start])
        hops.append(Hop(nodes[start], Span(start, stop)))
        start = stop
    return tuple(hops)


def _explain(
    missing: list[Span],
    known: list[NodeRecord],
    fingerprint: str,
    dtype: str | None,
    avoid: Collection[NodeId],
) -> str:
    """One line: the gaps, and what stands in their place if anything does."""
    text = f"no live node holds blocks {', '.join(map(str, missing))}"
    if dtype is not None:
        text += f" in {dtype}"
    ours = [record for record in known if record.fingerprint == fingerprint]
    if known and not ours:
        others = sorted({record.model for record in known})
        return f"{text} of this model: the nodes here serve {', '.join(others[:_NAMES_MAX])}"
    near = [
        record
        for record in ours
        if any(record.start < gap.stop and gap.start < record.stop for gap in missing)
    ]
    reasons = {
        "loading": sum(record.state is State.LOADING for record in near),
        "leaving": sum(record.state is State.LEAVING for record in near),
        "avoided": sum(record.state is State.READY and record.node in avoid for record in near),
    }
    notes = [f"{count} {reason}" for reason, count in reasons.items() if count]
    return f"{text} ({', '.join(notes)})" if notes else text
