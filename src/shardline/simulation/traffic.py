"""Callers' steps through a small swarm in virtual time: what routing's weights are judged by.

Real code inside: `choose_span`, `choose_chain` over records as old as heartbeats make them, `Bans`,
`Stragglers`. A node does one step at a time, in order of arrival; its record tells its load, queue
and free cache of the last heartbeat. Nodes die (some in silence, noticed after the lease), come
back, and become several times slower for a while without saying so. Who loses a node routes its
part anew and has it replay the session's tokens.

Not modelled: batching, prefill, bandwidth, standbys, rebalancing, views that differ.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from shardline.core.errors import BadInput, NotCovered
from shardline.core.ids import NodeId
from shardline.simulation.network import Network
from shardline.swarm import (
    WEIGHTS,
    Bans,
    Hop,
    NodeRecord,
    State,
    Stragglers,
    Weights,
    choose_chain,
    choose_span,
    heartbeat_s,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardline.core.spans import Span

__all__ = ["STRAGGLER", "Flowed", "Traffic", "flow"]

STRAGGLER = 5.0
"""`Stragglers`' own factor."""
CALLERS = 6
LINKS_KNOWN = 0.7
"""Share of links that somebody has measured."""
RATE_STEPS_PER_S = 40.0
FITS_SHARE = (0.3, 0.7)
PROMPT_TOKENS = 64
TOKENS = 40.0
TOKENS_MAX = 160
CACHE_SESSIONS = (3, 8)
"""Sessions of the longest kind that fit into a node's cache."""
UP_S, DOWN_S = 400.0, 40.0
SILENT, NOTICED_S, LEASE_S = 0.4, 0.05, 2.0
THROTTLED_EACH_S, THROTTLED_S, THROTTLED = 400.0, 60.0, 8.0
"""How often a node becomes slow, for how long, and by how much."""
LOAD = 0.55
"""Share of what the nodes could do together, less than one as chains are not perfect."""
TRIES = 6
NODES = (4, 256)
MINUTES = (0.1, 240.0)


@dataclass(frozen=True, slots=True)
class Traffic:
    """One simulated time; equal settings and weights give equal runs. Raises BadInput."""

    nodes: int = 16
    minutes: float = 3.0
    seed: int = 0
    blocks: int = 16

    def __post_init__(self) -> None:
        for name, (least, most) in {"nodes": NODES, "minutes": MINUTES}.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise BadInput(f"--{name} {value} is not within {least:g}:{most:g}")


@dataclass(slots=True)
class Flowed:
    """What was counted."""

    step_ms: list[float] = field(default_factory=list[float])
    """Of each token: from its sending to its answer, mending included."""
    replayed: int = 0
    """Tokens that a new node had to compute again."""
    lost: int = 0
    """Tokens of sessions that found no chain."""
    rerouted: int = 0

    @property
    def p95_ms(self) -> float:
        """The time that a step in twenty exceeds."""
        return float(np.quantile(self.step_ms, 0.95)) if self.step_ms else 0.0

    @property
    def wasted(self) -> float:
        """Replayed and lost tokens, as a share of those that were made."""
        return (self.replayed + self.lost) / max(1, len(self.step_ms))


@dataclass(slots=True)
class _Node:
    number: int
    fits: int
    rate: float
    cache_tokens: int
    record: NodeRecord
    life: int = 0
    """Odd while it lives; a seat is gone with the life it was taken in."""
    slow: float = 1.0
    free_s: float = 0.0
    """When it has done all that waits."""
    busy_s: float = 0.0
    """Since the last heartbeat."""
    used_tokens: int = 0
    waits: int = 0


@dataclass(slots=True)
class _Session:
    caller: int
    name: str
    tokens: int
    chain: list[Hop]
    lives: list[int]
    done: int = 0
    sent_s: float = 0.0

    @property
    def room(self) -> int:
        return PROMPT_TOKENS + self.tokens


class _World:
    """Happenings in order of time; everything random is drawn from the seed."""

    def __init__(self, traffic: Traffic, weights: Weights, straggler: float) -> None:
        self.traffic, self.weights = traffic, weights
        self.luck = Random(traffic.seed)
        self.flowed = Flowed()
        self._now_s = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._bans = [Bans() for _ in range(CALLERS)]
        self._stragglers = [Stragglers(factor=straggler) for _ in range(CALLERS)]
        self._seen: dict[NodeId, NodeRecord] = {}
        places = traffic.nodes + CALLERS
        network = Network(places, np.random.default_rng(traffic.seed), loss=0.0)
        every = np.arange(places)
        self._way_s = [(network.one_way_ms(place, every) / 1e3).tolist() for place in range(places)]
        self._nodes = [self._node(number) for number in range(traffic.nodes)]
        self._links = [self._known(traffic.nodes + caller) for caller in range(CALLERS)]

    def run(self) -> Flowed:
        """From the first heartbeat to the end; sessions under way then count as far as they are."""
        heart_s = heartbeat_s(self.traffic.nodes)
        for node in self._nodes:
            self._start(node)
            self._at(self.luck.uniform(0, heart_s), lambda n=node: self._beat(n, heart_s))
        able = sum(node.rate for node in self._nodes) / self.traffic.blocks
        each_s = TOKENS / (LOAD * able)
        self._at(0.0, lambda: self._call(each_s, 0))
        end_s = 60 * self.traffic.minutes
        while self._heap and self._heap[0][0] <= end_s:
            self._now_s, _, happening = heapq.heappop(self._heap)
            happening()
        return self.flowed

    def _at(self, time_s: float, happening: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (time_s, self._count, happening))
        self._count += 1

    def _node(self, number: int) -> _Node:
        luck, blocks = self.luck, self.traffic.blocks
        cache = luck.randint(*CACHE_SESSIONS) * (PROMPT_TOKENS + TOKENS_MAX)
        rate = RATE_STEPS_PER_S * luck.lognormvariate(0.0, 0.5)
        record = NodeRecord(
            node=NodeId(f"{number:064x}"), name=f"machine-{number}", shardline="0.1.0",
            model="simulated", fingerprint="5" * 64, blocks=blocks, start=0, stop=blocks,
            state=State.READY, device="cpu", dtype="bfloat16", memory_bytes=2**33,
            cache_tokens_free=cache, cache_tokens_total=cache, block_steps_per_s=rate,
            links=self._known(number),
        )  # fmt: skip
        fits = max(1, round(blocks * luck.uniform(*FITS_SHARE)))
        return _Node(number, fits, rate, cache, record)

    def _known(self, place: int) -> dict[NodeId, float]:
        """Round trips in ms to those nodes that were measured."""
        return {
            NodeId(f"{other:064x}"): 2e3 * self._way_s[place][other]
            for other in range(self.traffic.nodes)
            if other != place and self.luck.random() < LINKS_KNOWN
        }

    def _start(self, node: _Node) -> None:
        span = choose_span(self._seen.values(), blocks=self.traffic.blocks, fits=node.fits)
        node.life += 1
        node.slow, node.free_s, node.busy_s = 1.0, self._now_s, 0.0
        node.used_tokens = node.waits = 0
        node.record = msgspec.structs.replace(node.record, start=span.start, stop=span.stop)
        self._say(node, 0.0)
        life = node.life
        luck = self.luck
        self._at(self._now_s + luck.expovariate(1 / UP_S), lambda: self._die(node))
        slow_s = self._now_s + luck.expovariate(1 / THROTTLED_EACH_S)
        self._at(slow_s, lambda: self._throttle(node, life, THROTTLED))

    def _say(self, node: _Node, load: float) -> None:
        node.record = self._seen[node.record.node] = msgspec.structs.replace(
            node.record,
            load=min(1.0, load),
            queue=max(0, node.waits - 1),
            cache_tokens_free=max(0, node.cache_tokens - node.used_tokens),
        )

    def _beat(self, node: _Node, heart_s: float) -> None:
        if node.life % 2:
            self._say(node, node.busy_s / heart_s)
            node.busy_s = 0.0
        self._at(self._now_s + heart_s, lambda: self._beat(node, heart_s))

    def _die(self, node: _Node) -> None:
        node.life += 1
        life = node.life
        noticed_s = LEASE_S if self.luck.random() < SILENT else NOTICED_S

        def forget() -> None:
            if node.life == life:
                self._seen.pop(node.record.node, None)

        self._at(self._now_s + noticed_s, forget)
        back_s = noticed_s + self.luck.expovariate(1 / DOWN_S)
        self._at(self._now_s + back_s, lambda: self._start(node))

    def _throttle(self, node: _Node, life: int, slow: float) -> None:
        """Slower by this much, for a while; nothing if the process is another one by now."""
        if node.life != life:
            return
        node.slow = slow
        usual = slow == 1.0
        wait_s = self.luck.expovariate(1 / (THROTTLED_EACH_S if usual else THROTTLED_S))
        following = THROTTLED if usual else 1.0
        self._at(self._now_s + wait_s, lambda: self._throttle(node, life, following))

    def _call(self, each_s: float, count: int) -> None:
        """A session begins, and the next one later."""
        luck = self.luck
        wait_s = luck.expovariate(1 / each_s)
        self._at(self._now_s + wait_s, lambda: self._call(each_s, count + 1))
        tokens = min(TOKENS_MAX, 1 + int(luck.expovariate(1 / TOKENS)))
        session = _Session(luck.randrange(CALLERS), f"{count}", tokens, [], [])
        if self._seat(session, None, None):
            session.sent_s = self._now_s
            self._send(session, 0, self.traffic.nodes + session.caller)
        else:
            self.flowed.lost += tokens

    def _seat(self, session: _Session, place: int | None, avoid: NodeId | None) -> bool:
        """Take seats for all blocks, or for those of one hop; nothing changes if that fails."""
        bans = self._bans[session.caller]
        hops = session.chain
        part: Span | None = None
        ends: dict[str, NodeId | None] = {}
        others = {hop.node for hop in hops}
        if place is not None:
            part = hops[place].span
            others.discard(hops[place].node)
            ends["before"] = hops[place - 1].node if place else None
            ends["after"] = hops[place + 1].node if place + 1 < len(hops) else None
        for _ in range(TRIES):
            try:
                found = choose_chain(
                    self._seen.values(), blocks=self.traffic.blocks, fingerprint="5" * 64,
                    within=part, avoid={avoid, *others} - {None},  # pyright: ignore[reportArgumentType]
                    discouraged=bans.avoid(self._now_s), links=self._links[session.caller],
                    tokens=session.room, salt=session.name, weights=self.weights, **ends,
                )  # fmt: skip
            except NotCovered:
                return False
            bad = [hop.node for hop in found if not self._admits(hop, session.room)]
            for node in bad:
                bans.failed(node, self._now_s)
            if not bad:
                self._sit(session, place, found)
                return True
        return False

    def _of(self, hop: Hop) -> _Node:
        return self._nodes[int(hop.node, 16)]

    def _admits(self, hop: Hop, tokens: int) -> bool:
        node = self._of(hop)
        return bool(node.life % 2) and node.used_tokens + tokens <= node.cache_tokens

    def _sit(self, session: _Session, place: int | None, found: tuple[Hop, ...]) -> None:
        at = slice(0, 0) if place is None else slice(place, place + 1)
        if place is not None:
            self._release(session, place)
        session.chain[at] = found
        session.lives[at] = [self._of(hop).life for hop in found]
        for hop in found:
            self._of(hop).used_tokens += session.room

    def _release(self, session: _Session, place: int) -> None:
        node = self._of(session.chain[place])
        if node.life == session.lives[place]:
            node.used_tokens -= session.room

    def _send(self, session: _Session, place: int, source: int) -> None:
        """A step on its way to a hop."""
        target = int(session.chain[place].node, 16)
        there_s = self._now_s + self._way_s[source][target]
        self._at(there_s, lambda: self._arrive(session, place))

    def _arrive(self, session: _Session, place: int) -> None:
        hop, life = session.chain[place], session.lives[place]
        node = self._of(hop)
        if node.life != life:
            self._at(self._now_s + NOTICED_S, lambda: self._mend(session, place))
            return
        took_s = len(hop.span) * node.slow / node.rate
        node.free_s = max(node.free_s, self._now_s) + took_s
        node.busy_s += took_s
        node.waits += 1
        self._at(node.free_s, lambda: self._computed(session, place, took_s))

    def _computed(self, session: _Session, place: int, took_s: float) -> None:
        hop, life = session.chain[place], session.lives[place]
        node = self._of(hop)
        if node.life != life:  # it died over it: silence, until somebody notices
            wait_s = NOTICED_S if hop.node not in self._seen else LEASE_S
            self._at(self._now_s + wait_s, lambda: self._mend(session, place))
            return
        node.waits -= 1
        self._stragglers[session.caller].add(hop.node, took_s / len(hop.span))
        if place + 1 < len(session.chain):
            self._send(session, place + 1, node.number)
        else:
            back_s = self._way_s[node.number][self.traffic.nodes + session.caller]
            self._at(self._now_s + back_s, lambda: self._answered(session))

    def _mend(self, session: _Session, place: int) -> None:
        """Another node for a lost one's blocks; it replays, and the step goes on."""
        lost = session.chain[place]
        self._bans[session.caller].failed(lost.node, self._now_s)
        self._stragglers[session.caller].forget(lost.node)
        if not self._replaced(session, place):
            self._end(session)
            self.flowed.lost += session.tokens - session.done
            return
        source = self.traffic.nodes + session.caller
        self._send(session, place, int(session.chain[place - 1].node, 16) if place else source)

    def _replaced(self, session: _Session, place: int) -> bool:
        """Whether others hold this hop's blocks now; they compute what it had computed."""
        before = len(session.chain)
        if not self._seat(session, place, session.chain[place].node):
            return False
        self.flowed.rerouted += 1
        self.flowed.replayed += session.done
        for hop in session.chain[place : place + 1 + len(session.chain) - before]:
            node = self._of(hop)
            took_s = session.done * len(hop.span) * node.slow / node.rate
            node.free_s = max(node.free_s, self._now_s) + took_s
            node.busy_s += took_s
        return True

    def _answered(self, session: _Session) -> None:
        """A token is there; the next one is asked for, past nodes that became slow."""
        self.flowed.step_ms.append(1e3 * (self._now_s - session.sent_s))
        session.done += 1
        if session.done >= session.tokens:
            self._end(session)
            return
        stragglers = self._stragglers[session.caller]
        for hop in list(session.chain):
            if stragglers.is_straggler(hop.node):
                self._bans[session.caller].failed(hop.node, self._now_s)
                self._replaced(session, session.chain.index(hop))
        session.sent_s = self._now_s
        self._send(session, 0, self.traffic.nodes + session.caller)

    def _end(self, session: _Session) -> None:
        for place in range(len(session.chain)):
            self._release(session, place)


def flow(traffic: Traffic, weights: Weights = WEIGHTS, straggler: float = STRAGGLER) -> Flowed:
    """What callers get in this time, with these weights."""
    return _World(traffic, weights, straggler).run()
