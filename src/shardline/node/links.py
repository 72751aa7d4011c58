"""What a node knows of the ways to others, and whose turn it is to be measured. Pure.

Round trips are measured with every record, in turn; rates once in a long while, as a burst costs
others something. Loss cannot be seen, as every transport here sends again what was lost. What can
be seen is that it does so late: TCP waits LATE_MS at least.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, TypedDict

from shardline.swarm import LINKS_TOLD, PINGS_KEPT, Flow

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from shardline.core.ids import NodeId

__all__ = ["Links", "Rates", "Told"]

LATE_MS = 200.0
"""How much longer than its quickest a ping takes that is late: the least that Linux's TCP waits
before it sends a lone segment again (RFC 6298 asks for more). A busy machine can be as late; QUIC
sends again sooner, so over iroh fewer losses show."""
REFRESH_S = 6 * 3600.0
"""For how long a measured rate is good. Shorter follows changes and sends more bursts."""
KBIT_MAX = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast bursts went to a peer, and came back, in kbit/s; 0 is not known."""

    up_kbit_s: int
    down_kbit_s: int

    @classmethod
    def of(cls, up_kbit_s: float, down_kbit_s: float) -> Rates:
        """Rounded, and as large as a record can tell."""
        return cls(*(min(max(round(rate), 1), KBIT_MAX) for rate in (up_kbit_s, down_kbit_s)))


class Told(TypedDict):
    """Fields of a record."""

    links: dict[NodeId, float]
    flows: tuple[Flow, ...]


@dataclass(slots=True)
class _Way:
    pings_ms: deque[float] = field(default_factory=lambda: deque(maxlen=PINGS_KEPT))
    rates: Rates | None = None
    rated_at_s: float = -inf
    asked_at_s: float = -inf

    def flow(self) -> Flow:
        quickest_ms = min(self.pings_ms, default=0.0)
        late = sum(ms == inf or ms >= quickest_ms + LATE_MS for ms in self.pings_ms)
        rates = self.rates or Rates(0, 0)
        return Flow(rates.up_kbit_s, rates.down_kbit_s, late, len(self.pings_ms))


class Links:
    """Round-trip times in ms to other nodes, at most LINKS_TOLD of them, and what else is known."""

    def __init__(self, me: NodeId) -> None:
        self.known: dict[NodeId, float] = {}
        """The latest last."""
        self._me = me
        self._reached = ""
        self._ways: dict[NodeId, _Way] = {}

    def turn(self, others: Iterable[NodeId]) -> list[NodeId]:
        """Whom to ping now: the next LINKS_TOLD in a ring of all; those who left are dropped."""
        ring = sorted(others)
        self.known = {node: ms for node, ms in self.known.items() if node in set(ring)}
        self._ways = {node: self._ways.get(node) or _Way() for node in ring}
        later = [node for node in ring if node > self._reached]
        chosen = [*later, *ring[: len(ring) - len(later)]][:LINKS_TOLD]
        self._reached = chosen[-1] if chosen else ""
        return chosen

    def add(self, node: NodeId, rtt_ms: float | None) -> None:
        """What a ping of one whose turn it was gave; None: no answer."""
        self.known.pop(node, None)
        self._ways[node].pings_ms.append(inf if rtt_ms is None else rtt_ms)
        if rtt_ms is not None:
            self.known[node] = round(rtt_ms, 3)
        while len(self.known) > LINKS_TOLD:
            del self.known[next(iter(self.known))]

    def due(self, idle: Collection[NodeId], now_s: float) -> NodeId | None:
        """Who of these idle nodes is to be sent a burst now: whoever was not asked for longest.

        Nobody while the rates of LINKS_TOLD links are fresh: others follow from those. Of equals
        the next in the ring, so that not everyone asks the same.
        """
        fresh = sum(not _due(way, now_s) for way in self._ways.values())
        if fresh >= LINKS_TOLD:
            return None
        due = [node for node in self.known if node in idle and _due(self._ways[node], now_s)]
        ranks = {node: (self._ways[node].asked_at_s, node < self._me, node) for node in due}
        return min(due, key=ranks.__getitem__, default=None)

    def asked(self, node: NodeId, rates: Rates | None, now_s: float) -> None:
        """What bursts gave; None: it had no time, goes to the end of the line, and what was known
        before stays."""
        way = self._ways.get(node)
        if way is not None:  # else it has left meanwhile
            way.asked_at_s = now_s
            if rates is not None:
                way.rates, way.rated_at_s = rates, now_s

    def told(self) -> Told:
        """The record's fields about links."""
        flows = tuple(self._ways[node].flow() for node in self.known)
        return Told(links=dict(self.known), flows=flows)


def _due(way: _Way, now_s: float) -> bool:
    return now_s - way.rated_at_s >= REFRESH_S
