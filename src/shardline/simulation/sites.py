"""Swarms on two sites with a slow way between them: what is it worth that links count? (0020)

Nodes join one after the other and one may move after each; in the end moves follow each other
until nobody moves. Then callers beside the nodes ask for text after text. Real code inside:
`choose_span`, `choose_place`, `best_move`, `choose_chain` over records as old as heartbeats make
them. A node does one step at a time, in order of arrival.

Not modelled: bandwidth, views that differ, what a move costs while it lasts (`world` has that).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import msgspec

from shardline.core.ids import NodeId
from shardline.simulation.machines import WALL_S
from shardline.swarm import (
    HEARTBEAT_S,
    LINKS_TOLD,
    NodeRecord,
    State,
    best_move,
    choose_chain,
    choose_place,
    choose_span,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shardline.swarm import Hop, Move

__all__ = ["Asked", "Sites", "ask", "gather", "next_move"]

STEP_BYTES = 8_192
LOCAL_MS = (0.5, 6.0)
WAVERING = 0.05
"""How far a measured round trip may be off."""
RATE_STEPS_PER_S = 200.0
TOKENS = 40
"""Of a text."""
WARM_S, END_S = 60.0, 150.0
"""Callers begin within the first half of the first; between the two, steps are counted."""
REST_S = 660.0
"""Between two moves: a node's rest and a minute."""
MOVES_MAX = 4
"""For each node, before it counts as thrashing."""


@dataclass(frozen=True, slots=True)
class Sites:
    """One swarm; equal settings give equal swarms."""

    nodes: int = 12
    blocks: int = 24
    seed: int = 0
    bridge_ms: float = 120.0
    """What the way between the sites adds to a round trip."""
    fits: tuple[float, float] = (0.15, 0.5)
    """Share of the model that a node has room for."""

    def rtt_ms(self) -> list[list[float]]:
        """Between all machines; each stands on one site or the other."""
        luck = Random(f"{self.seed} links")
        site = [luck.randrange(2) for _ in range(self.nodes)]
        table = [[0.0] * self.nodes for _ in range(self.nodes)]
        for one in range(self.nodes):
            for other in range(one):
                apart_ms = self.bridge_ms * luck.uniform(0.9, 1.1) * (site[one] != site[other])
                table[one][other] = table[other][one] = luck.uniform(*LOCAL_MS) + apart_ms
        return table


def gather(sites: Sites, *, links: bool, refined: bool = False) -> tuple[list[NodeRecord], int]:
    """The swarm once all have joined and nobody moves any more, and how many moves that took.

    Without `links` by decision 0017 alone; with `refined` plans where all have joined. Raises
    RuntimeError if moving does not end.
    """
    luck, rtt_ms = Random(f"{sites.seed} nodes"), sites.rtt_ms()
    records: list[NodeRecord] = []
    moves = 0
    for number in range(sites.nodes):
        one = _machine(sites, number, luck)
        one = msgspec.structs.replace(one, links=_measured(rtt_ms, number, records, luck))
        records = _joined(records, one, links=links)
        records = [
            msgspec.structs.replace(
                record, links=_measured(rtt_ms, _number(record.node), records, luck)
            )
            for record in records
        ]
        last = number + 1 == sites.nodes
        while moved := next_move(records, moves, links=links, refined=refined and last):
            node, move = moved
            to = {"start": move.span.start, "stop": move.span.stop}
            records = [
                msgspec.structs.replace(record, **(to if record.node == node else {}))
                for record in records
            ]
            moves += 1
            if moves > MOVES_MAX * sites.nodes:
                raise RuntimeError(f"{moves} moves of {sites.nodes} nodes: thrashing")
            if not last:
                break
    return records, moves


def next_move(
    records: Sequence[NodeRecord], moves: int, *, links: bool, refined: bool = False
) -> tuple[NodeId, Move] | None:
    """Who moves after so many moves."""
    return best_move(
        records,
        blocks=records[0].blocks,
        fingerprint=records[0].fingerprint,
        dtype=records[0].dtype,
        now_s=WALL_S + moves * REST_S,
        step_bytes=STEP_BYTES if links else None,
        refined=refined,
    )


def _joined(records: list[NodeRecord], one: NodeRecord, *, links: bool) -> list[NodeRecord]:
    if links:
        span = choose_place(records, one, step_bytes=STEP_BYTES)
    else:
        rate = one.block_steps_per_s
        span = choose_span(records, blocks=one.blocks, fits=one.fits, block_steps_per_s=rate)
    return [*records, msgspec.structs.replace(one, start=span.start, stop=span.stop)]


def _machine(sites: Sites, number: int, luck: Random) -> NodeRecord:
    fits = max(1, round(sites.blocks * luck.uniform(*sites.fits)))
    return NodeRecord(
        node=_id(number), name=f"machine-{number}", shardline="0.1.0", model="simulated",
        fingerprint="5" * 64, blocks=sites.blocks, start=0, stop=fits, state=State.READY,
        device="cpu", dtype="bfloat16", memory_bytes=2**33, fits=fits, placed_at_s=1.0,
        block_steps_per_s=RATE_STEPS_PER_S * luck.lognormvariate(0.0, 0.5),
    )  # fmt: skip


def _measured(
    rtt_ms: list[list[float]], number: int, records: list[NodeRecord], luck: Random
) -> dict[NodeId, float]:
    """Round trips to some of those who are here, as far off as measured ones are."""
    others = [record.node for record in records if _number(record.node) != number]
    return {
        node: rtt_ms[number][_number(node)] * luck.uniform(1 - WAVERING, 1 + WAVERING)
        for node in luck.sample(others, min(len(others), LINKS_TOLD))
    }


def _id(number: int) -> NodeId:
    return NodeId(f"{number:064x}")


def _number(node: NodeId) -> int:
    return int(node, 16)


@dataclass(frozen=True, slots=True)
class Asked:
    """What callers got."""

    steps_per_s: float
    """All together."""
    step_ms: float
    """The mean."""


def ask(sites: Sites, records: Sequence[NodeRecord], callers: int) -> Asked:
    """So many callers at once, beside one node after the other."""
    return _Callers(sites, records, callers).run()


@dataclass(slots=True)
class _Text:
    caller: int
    number: int
    chain: tuple[Hop, ...] = ()
    tokens: int = 0
    sent_s: float = 0.0


class _Callers:
    """Happenings in order of time."""

    def __init__(self, sites: Sites, records: Sequence[NodeRecord], callers: int) -> None:
        self._rtt_ms = sites.rtt_ms()
        self._told = {record.node: record for record in records}
        homes = [_number(record.node) for record in records]
        self._homes = [homes[caller % len(homes)] for caller in range(callers)]
        self._luck = Random(f"{sites.seed} callers")
        self._now_s = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._free_s = dict.fromkeys(self._told, 0.0)
        self._busy_s = dict.fromkeys(self._told, 0.0)
        self._waits = dict.fromkeys(self._told, 0)
        self._took_s: list[float] = []

    def run(self) -> Asked:
        """Until END_S."""
        self._at(0.0, self._beat)
        for caller in range(len(self._homes)):
            begins_s = self._luck.uniform(0, WARM_S / 2)
            self._at(begins_s, partial(self._begin, _Text(caller, 0)))
        while self._heap[0][0] < END_S:
            self._now_s, _, happening = heapq.heappop(self._heap)
            happening()
        steps = len(self._took_s)
        return Asked(steps / (END_S - WARM_S), 1e3 * sum(self._took_s) / max(1, steps))

    def _at(self, time_s: float, happening: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (time_s, self._count, happening))
        self._count += 1

    def _beat(self) -> None:
        """All records are renewed."""
        for node, record in self._told.items():
            self._told[node] = msgspec.structs.replace(
                record,
                load=min(1.0, self._busy_s[node] / HEARTBEAT_S),
                queue=max(0, self._waits[node] - 1),
            )
            self._busy_s[node] = 0.0
        self._at(self._now_s + HEARTBEAT_S, self._beat)

    def _begin(self, text: _Text) -> None:
        home = self._homes[text.caller]
        one = next(iter(self._told.values()))
        text.chain = choose_chain(
            self._told.values(), blocks=one.blocks, fingerprint=one.fingerprint,
            links={node: self._rtt_ms[home][_number(node)] for node in self._told},
            salt=f"{text.caller} {text.number}",
        )  # fmt: skip
        self._ask(text)

    def _ask(self, text: _Text) -> None:
        text.sent_s = self._now_s
        self._send(text, 0)

    def _send(self, text: _Text, place: int) -> None:
        """A step on its way to a hop, or back to its caller behind the last one."""
        home, chain = self._homes[text.caller], text.chain
        source = _number(chain[place - 1].node) if place else home
        target = _number(chain[place].node) if place < len(chain) else home
        back = place == len(chain)
        there = partial(self._answered, text) if back else partial(self._arrive, text, place)
        self._at(self._now_s + self._rtt_ms[source][target] / 2e3, there)

    def _arrive(self, text: _Text, place: int) -> None:
        node = text.chain[place].node
        took_s = len(text.chain[place].span) / self._told[node].block_steps_per_s
        self._free_s[node] = max(self._free_s[node], self._now_s) + took_s
        self._busy_s[node] += took_s
        self._waits[node] += 1

        def computed() -> None:
            self._waits[node] -= 1
            self._send(text, place + 1)

        self._at(self._free_s[node], computed)

    def _answered(self, text: _Text) -> None:
        if self._now_s > WARM_S:
            self._took_s.append(self._now_s - text.sent_s)
        text.tokens += 1
        if text.tokens < TOKENS:
            self._ask(text)
        else:
            self._begin(_Text(text.caller, text.number + 1))
