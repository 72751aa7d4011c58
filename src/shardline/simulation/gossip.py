"""How news travels in the simulated swarm: what the real engine does, in O(changes) events.

Signs of life, deaths and new records go from their node to every member, each over its own link. A
process that dies closes its links, and its death travels like any news; a machine that falls silent
is missed by each member after the lease. Renewals of an unchanged record are not sent one by one:
their bytes are counted, and who looks at a record later finds it renewed (`card`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from shardline.simulation.agenda import TICK_S
from shardline.simulation.machines import WALL_S
from shardline.simulation.peer import substance
from shardline.swarm import NodeRecord, heartbeat_s, open_record, renew, sign

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from shardline.core.ids import NodeId
    from shardline.simulation.agenda import Agenda
    from shardline.simulation.network import Network
    from shardline.simulation.peer import Peer
    from shardline.simulation.report import Tally
    from shardline.swarm import Identity

__all__ = ["Gossip"]

LIFE_BYTES = 120
"""A sign of life, or of death: its key in the engine, with a little around it."""
KEEP_ALIVES = 4
"""Keep-alives a lease: a silent link is missed after three quarters of a lease to a whole one."""


@dataclass(slots=True)
class _Change:
    """One join or death, until everybody has heard of it."""

    since: int
    left: int
    samples: list[float] | None


class Gossip:
    """All members' links. `peers[n]` is the process on machine n, None while it is off."""

    def __init__(  # noqa: PLR0913 - what it runs on, then what it is
        self,
        agenda: Agenda,
        network: Network,
        tally: Tally,
        luck: np.random.Generator,
        *,
        nodes: list[NodeId],
        lease_s: float,
    ) -> None:
        self._agenda = agenda
        self._network = network
        self._tally = tally
        self._luck = luck
        self._nodes = nodes
        self._numbers = {node: number for number, node in enumerate(nodes)}
        self._lease_s = lease_s
        self._beat_s = heartbeat_s(len(nodes))
        # A link keeps the order of the signs of life that go over it; records may overtake.
        self._last = np.zeros((len(nodes), len(nodes)), dtype=np.int64)
        self._backlog: dict[int, list[Callable[[], None]]] = {}
        self._silent: dict[int, int] = {}
        self._cards: dict[int, NodeRecord] = {}
        self._renewed: dict[int, NodeRecord] = {}
        self.peers: list[Peer | None] = [None] * len(nodes)
        self.record_bytes = 0
        """Of the record that was published last."""

    @property
    def now_s(self) -> float:
        """World time, in seconds since 1970."""
        return WALL_S + self._agenda.now_s

    def publish(self, source: int, record: NodeRecord, identity: Identity, *, first: bool) -> None:
        """Send a record to everybody, and with the first one the sign of life."""
        data = sign(record, identity)
        opened = open_record(data)
        assert isinstance(opened, NodeRecord)  # checked once, for all who get it
        self.record_bytes = len(data)
        self._cards[source] = opened
        self._renewed.pop(source, None)
        peer, mark = self.peers[source], substance(opened)
        assert peer is not None
        run = peer.run

        def hear(hearer: Peer, now_s: float) -> None:
            if first:
                hearer.hear_newcomer(opened, mark, run, now_s)
            else:
                hearer.hear_record(opened, mark, now_s)

        samples = self._tally.join_s if first else None
        self._send(
            source,
            hear,
            size_bytes=len(data) + LIFE_BYTES * first,
            change=_Change(self._agenda.tick, 0, samples),
            in_order=first,
        )

    def number(self, node: NodeId) -> int:
        """The machine of this node."""
        return self._numbers[node]

    def said(self, number: int) -> NodeRecord | None:
        """What this machine's process published last."""
        return self._cards.get(number)

    def show(self, source: int) -> None:
        """Tell everybody that this machine's process lives on, and what it last said."""
        peer, card = self.peers[source], self.card(source)
        if peer is None or card is None:
            return
        run, mark = peer.run, substance(card)
        self._send(
            source,
            lambda hearer, now_s: hearer.hear_newcomer(card, mark, run, now_s),
            size_bytes=LIFE_BYTES + self.record_bytes,
            change=_Change(self._agenda.tick, 0, None),
            in_order=True,
        )

    def die(self, source: int, *, silent: bool) -> None:
        """The process ends: its links are closed, or it only says nothing any more."""
        peer = self.peers[source]
        assert peer is not None
        self.peers[source] = None
        self._backlog.pop(source, None)
        self._silent.pop(source, None)
        self._cards.pop(source, None)
        self._renewed.pop(source, None)
        self._tell_death(source, peer.run, silent=silent, samples=self._tally.death_s)

    def freeze(self, source: int) -> None:
        """The process stands still: it hears nothing, and is missed after the lease."""
        peer = self.peers[source]
        assert peer is not None
        self._backlog[source] = []
        since = self._silent[source] = self._agenda.tick
        self._tell_death(
            source, peer.run, silent=True, still=lambda: self._silent.get(source) == since
        )

    def thaw(self, source: int) -> None:
        """The process goes on: it hears what waited, links again, and is seen again."""
        self._silent.pop(source, None)
        for happening in self._backlog.pop(source, []):
            happening()
        if self.peers[source] is not None:
            self.show(source)
            self.resync(source)

    def frozen(self, source: int) -> bool:
        """Whether the process stands still."""
        return source in self._silent

    def reaches(self, a: int, b: int) -> bool:
        """Whether both live and a message gets from one to the other."""
        return (
            self.peers[a] is not None
            and self.peers[b] is not None
            and b not in self._silent
            and self._network.joined(a, b)
        )

    def when_awake(self, number: int, peer: Peer, happening: Callable[[], None]) -> None:
        """Do this for a process now, when it thaws, or never if it has ended."""
        if self.peers[number] is peer:
            if number in self._backlog:
                self._backlog[number].append(happening)
            else:
                happening()

    def cut(self, away: NDArray[np.int64]) -> None:
        """Part these machines from the rest; both sides miss the other after the lease."""
        self._network.cut(away)
        since = self._agenda.tick
        waits_s = self._lease_s * self._luck.uniform(1 - 1 / KEEP_ALIVES, 1, len(self._nodes))
        for number, wait_s in enumerate(waits_s):
            peer = self.peers[number]
            if peer is not None:
                self._agenda.after(wait_s, lambda n=number, p=peer: self._miss(n, p, since))

    def heal(self) -> None:
        """Let all reach all again; each links anew in its own time."""
        self._network.heal()
        for number, peer in enumerate(self.peers):
            if peer is not None:
                wait_s = self._luck.uniform(0.2, 2.0)
                self._agenda.after(
                    wait_s,
                    lambda n=number, p=peer: self.when_awake(n, p, lambda: self.resync(n)),
                )

    def resync(self, number: int) -> None:
        """What a member that links anew learns: who is gone, who is here, what they say now."""
        peer, now_s = self.peers[number], self.now_s
        assert peer is not None
        for node, run in list(peer.runs.items()):
            other = self._numbers[node]
            alive = self.peers[other]
            if alive is None or alive.run != run or not self.reaches(number, other):
                peer.hear_death(node, run, now_s)
        for other, alive in enumerate(self.peers):
            if other == number or alive is None or not self.reaches(number, other):
                continue
            card = self.card(other)
            known = peer.seen.get(alive.machine.node)
            if card is not None and (
                known is None
                or peer.runs.get(card.node) != alive.run
                or known.sequence < self._cards[other].sequence
            ):
                peer.hear_newcomer(card, substance(card), alive.run, now_s)
                self._tally.heard_bytes += LIFE_BYTES + self.record_bytes

    def card(self, number: int) -> NodeRecord | None:
        """The last renewal of a machine's record."""
        peer, record = self.peers[number], self._cards.get(number)
        if peer is None or record is None:
            return None
        own_s = self.now_s + peer.machine.skew_s
        renewed = self._renewed.get(number, record)
        if own_s - renewed.issued_at_s >= self._beat_s:
            life_s = record.expires_at_s - record.issued_at_s
            renewed = self._renewed[number] = renew(renewed, now_s=own_s, life_s=life_s)
        return renewed

    def _tell_death(
        self,
        source: int,
        run: str,
        *,
        silent: bool,
        samples: list[float] | None = None,
        still: Callable[[], bool] | None = None,
    ) -> None:
        node = self._nodes[source]

        def hear(hearer: Peer, now_s: float) -> None:
            if still is None or still():
                hearer.hear_death(node, run, now_s)

        change = _Change(self._agenda.tick, 0, samples)
        size_bytes = 0 if silent else LIFE_BYTES
        self._send(source, hear, size_bytes=size_bytes, change=change, in_order=True, silent=silent)

    def _send(  # noqa: PLR0913 - one message's particulars
        self,
        source: int,
        hear: Callable[[Peer, float], None],
        *,
        size_bytes: int,
        change: _Change,
        in_order: bool = False,
        silent: bool = False,
    ) -> None:
        """To all that are there now, each in its own time."""
        numbers = [n for n, peer in enumerate(self.peers) if peer is not None and n != source]
        targets = np.array(numbers, dtype=np.int64)
        if not numbers:
            return
        ticks = self._agenda.tick + self._network.trip_ticks(source, targets)
        if silent:
            missed_s = self._lease_s * self._luck.uniform(1 - 1 / KEEP_ALIVES, 1, len(targets))
            ticks += np.ceil(missed_s / TICK_S).astype(np.int64)
        if in_order:
            ticks = np.maximum(ticks, self._last[source, targets])
            self._last[source, targets] = ticks
        order = ticks.argsort(kind="stable")
        targets, ticks = targets[order], ticks[order]
        starts = np.flatnonzero(np.r_[True, ticks[1:] != ticks[:-1]])
        change.left += len(targets)
        for group, tick in zip(np.split(targets, starts[1:]), ticks[starts], strict=True):
            some: list[int] = group.tolist()
            self._agenda.at(
                int(tick), partial(self._deliver, source, some, hear, size_bytes, change)
            )

    def _deliver(
        self,
        source: int,
        targets: list[int],
        hear: Callable[[Peer, float], None],
        size_bytes: int,
        change: _Change,
    ) -> None:
        now_s, whole = self.now_s, self._network.whole
        for number in targets:
            peer = self.peers[number]
            if peer is None or not (whole or self._network.joined(source, number)):
                continue
            if number in self._backlog:
                self._backlog[number].append(lambda p=peer: hear(p, self.now_s))
            else:
                hear(peer, now_s)
        self._tally.heard_bytes += size_bytes * len(targets)
        change.left -= len(targets)
        if not change.left and change.samples is not None:
            change.samples.append((self._agenda.tick - change.since) * TICK_S)
            self._agenda.note("known", source, len(targets))

    def _miss(self, number: int, peer: Peer, since: int) -> None:
        """The lease of all links across a cut is over, if the cut still is."""

        def miss() -> None:
            beyond: list[int] = self._network.beyond(number).tolist()
            for other in beyond:
                run = peer.runs.get(self._nodes[other])
                if run is not None:
                    peer.hear_death(self._nodes[other], run, self.now_s)

        self._agenda.note("missed", number, since)
        self.when_awake(number, peer, miss)
