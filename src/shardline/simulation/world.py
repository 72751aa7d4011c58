"""A swarm in virtual time: machines come, go, freeze and are cut off; the real code decides.

Everything random is drawn from the seed, in the order in which things happen.
"""

from __future__ import annotations

import gc
import time
from random import Random
from typing import TYPE_CHECKING, assert_never

import numpy as np

from shardline.simulation.agenda import Agenda
from shardline.simulation.callers import Callers
from shardline.simulation.gossip import LIFE_BYTES, Gossip
from shardline.simulation.machines import make_machines, template
from shardline.simulation.network import Network
from shardline.simulation.peer import Event, Peer, Planner, Publish, Wake, Withdraw
from shardline.simulation.report import Report, Settings, Tally
from shardline.swarm import NodeRecord, State, heartbeat_s, throughputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardline.core.ids import NodeId
    from shardline.simulation.peer import Action

__all__ = ["World", "simulate"]

GATHER_S = 600.0
"""The machines' first starts are spread over this time."""
ASK_S = 0.3
"""From a process's start to its first snapshot of the directory."""
QUIET_S = 120.0
"""The end: nobody comes or goes any more, so that what is under way arrives."""
PAUSE_S = (1.0, 30.0)
CUT_S = (5.0, 120.0)
CUT_SHARE = (0.02, 0.5)
KILLED, SILENT = 0.4, 0.3
"""Shares of the ends that are a killed process, and a machine that falls silent; the rest leave."""
DAY_S = 86_400.0


class World:
    """One run. Build it, call `run` once, then ask for the report."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.agenda = Agenda()
        self.tally = Tally()
        self._luck = Random(settings.seed)
        numpy_luck = np.random.default_rng(settings.seed)
        self.network = Network(settings.nodes, numpy_luck, loss=settings.loss)
        self._machines = make_machines(settings, self._luck, self.network)
        self.gossip = Gossip(
            self.agenda,
            self.network,
            self.tally,
            numpy_luck,
            nodes=[machine.node for machine, _ in self._machines],
            lease_s=settings.lease_s,
        )
        self._callers = Callers(self.agenda, self.gossip, self.tally, self._luck, settings)
        self._planner = Planner()
        self._starts = [0] * settings.nodes
        self._quiet = False
        self._cut = False
        self._held = np.zeros(settings.blocks, dtype=np.int64)
        self._serving: dict[int, tuple[int, int]] = {}
        self._covered_once = False
        self._lost_since_s: float | None = None
        self._counted_s = 0.0

    def run(self) -> Report:
        """The whole time, then a quiet end."""
        began_s = time.perf_counter()
        gc.disable()  # a thousand views are a million objects, all of them in use
        try:
            self._live()
        finally:
            gc.enable()
        return self._report(time.perf_counter() - began_s)

    def _live(self) -> None:
        hours_s = self.settings.hours * 3600
        for number in range(self.settings.nodes):
            self._later(self._luck.uniform(0, GATHER_S), lambda n=number: self.start(n))
        self._every(self.settings.cuts_per_day / DAY_S, self._cut_some)
        self._every(self.settings.pauses_per_day * self.settings.nodes / DAY_S, self._freeze_one)
        self._every(self.settings.requests_per_hour / 3600, self._call)
        self._account()
        self.agenda.run(hours_s)
        self._quiet = True
        self.agenda.run(hours_s + QUIET_S)
        self._account_now()
        self._watch_coverage()

    def node(self, number: int) -> NodeId:
        """Who a machine is."""
        return self._machines[number][0].node

    def start(self, number: int) -> None:
        """A machine's process starts; its node is the same as last time."""
        if self.gossip.peers[number] is not None:
            return
        machine, _ = self._machines[number]
        self._starts[number] += 1
        run = f"{number}.{self._starts[number]}"
        peer = Peer(machine, run, template(machine, self.settings), self._planner)
        self.gossip.peers[number] = peer
        self.agenda.note("start", number)

        def ask() -> None:
            self.gossip.resync(number)
            self._step(number, peer, Event.START)

        self._when_awake(ASK_S, number, peer, ask)
        if not self._quiet:
            up_s = self._luck.expovariate(1 / (self.settings.up_hours * 3600))
            self._later(up_s, lambda: self._end(number, peer))

    def kill(self, number: int, *, silent: bool) -> None:
        """A process dies without a word; silent: with its machine."""
        self.agenda.note("silent" if silent else "killed", number)
        self._gone(number, silent=silent)

    def freeze(self, number: int, wait_s: float) -> None:
        """A process stands still for a while."""
        peer = self.gossip.peers[number]
        if peer is None or self.gossip.frozen(number):
            return
        self.agenda.note("frozen", number)
        self.tally.pauses += 1
        self.gossip.freeze(number)
        self._serve(number, None)

        def thaw() -> None:
            if self.gossip.peers[number] is peer:
                self.agenda.note("thawed", number)
                self.gossip.thaw(number)
                self._serve(number, peer.record)

        self.agenda.after(wait_s, thaw)

    def cut(self, away: list[int], wait_s: float) -> None:
        """Part these machines from the rest for a while; one cut at a time."""
        if self._cut:
            return
        self._cut = True
        self.agenda.note("cut", len(away))
        self.tally.cuts += 1
        self.gossip.cut(np.array(away, dtype=np.int64))

        def heal() -> None:
            self._cut = False
            self.agenda.note("healed")
            self.gossip.heal()

        self.agenda.after(wait_s, heal)

    def _end(self, number: int, peer: Peer) -> None:
        """This machine goes for one of three reasons, and comes back later."""
        if self._quiet or self.gossip.peers[number] is not peer:
            return
        why = self._luck.random()
        if why < KILLED + SILENT:
            self.kill(number, silent=why >= KILLED)
        elif peer.record is None:
            self._gone(number, silent=False)
        else:
            self.agenda.note("leaves", number)
            self.gossip.when_awake(number, peer, lambda: self._step(number, peer, Event.STOP))

    def _gone(self, number: int, *, silent: bool) -> None:
        self.tally.deaths += 1
        self.gossip.die(number, silent=silent)
        self._serve(number, None)
        down_s = self._luck.expovariate(1 / (self.settings.down_minutes * 60))
        self._later(down_s, lambda: self.start(number))

    def _step(self, number: int, peer: Peer, event: Event) -> None:
        """Let the member decide, then do what it says."""
        for action in peer.step(event, self.gossip.now_s):
            self._act(number, peer, action)

    def _act(self, number: int, peer: Peer, action: Action) -> None:
        match action:
            case Publish(record=record):
                first = record.state is State.LOADING
                self.tally.joins += first
                self.agenda.note("says", number, record.state.value, record.start, record.next_stop)
                self._count_move(self.gossip.said(number), record)
                identity = self._machines[number][1]
                self.gossip.publish(number, record, identity, first=first)
                self._serve(number, record)
            case Wake(wait_s=wait_s, event=event):
                wait_s *= self._luck.uniform(0.9, 1.1) if event is Event.THINK else 1.0
                self._when_awake(wait_s, number, peer, lambda: self._step(number, peer, event))
            case Withdraw():
                self._gone(number, silent=False)
            case _:
                assert_never(action)

    def _count_move(self, before: NodeRecord | None, now: NodeRecord) -> None:
        """A mover that says no more where it will go is there, or has given up."""
        if before is not None and before.moves_to is not None and now.moves_to is None:
            moved = now.span == before.moves_to
            self.tally.moves += moved
            self.tally.moves_given_up += not moved

    def _when_awake(
        self, wait_s: float, number: int, peer: Peer, happening: Callable[[], None]
    ) -> None:
        self.agenda.after(wait_s, lambda: self.gossip.when_awake(number, peer, happening))

    def _later(self, wait_s: float, happening: Callable[[], None]) -> None:
        """In so many seconds, unless all is quiet by then."""
        self.agenda.after(wait_s, lambda: None if self._quiet else happening())

    def _every(self, rate_per_s: float, happening: Callable[[], None]) -> None:
        """At random times, so many a second on the average."""
        if rate_per_s:

            def again() -> None:
                happening()
                self._every(rate_per_s, happening)

            self._later(self._luck.expovariate(rate_per_s), again)

    def _freeze_one(self) -> None:
        self.freeze(self._luck.randrange(self.settings.nodes), self._luck.uniform(*PAUSE_S))

    def _cut_some(self) -> None:
        share = self._luck.uniform(*CUT_SHARE)
        away = self._luck.sample(
            range(self.settings.nodes), max(1, round(share * self.settings.nodes))
        )
        self.cut(away, self._luck.uniform(*CUT_S))

    def _call(self) -> None:
        if self._covered_once:  # a swarm that has not gathered yet is asked for nothing
            self._callers.call(template(self._machines[0][0], self.settings).fingerprint)

    def _account(self) -> None:
        """Once a minute: renewals that went round, and time that machines were on."""
        self._account_now()
        self._later(60.0, self._account)

    def _account_now(self) -> None:
        now_s = self.agenda.now_s
        past_s, self._counted_s = now_s - self._counted_s, now_s
        here = sum(peer is not None for peer in self.gossip.peers)
        self.tally.up_s += here * past_s
        beats = here * max(0, here - 1) * past_s / heartbeat_s(max(1, here))
        self.tally.heard_bytes += beats * (self.gossip.record_bytes + LIFE_BYTES)

    def _serve(self, number: int, record: NodeRecord | None) -> None:
        """Keep count of who truly holds each block."""
        was = self._serving.pop(number, None)
        if was is not None:
            self._held[was[0] : was[1]] -= 1
        if record is not None and record.state is State.READY and not self.gossip.frozen(number):
            self._serving[number] = (record.start, record.stop)
            self._held[record.start : record.stop] += 1
        self._watch_coverage()

    def _watch_coverage(self) -> None:
        now_s = self.agenda.now_s
        if self._lost_since_s is not None:
            self.tally.coverage_lost_s += now_s - self._lost_since_s
            self._lost_since_s = None
        if self._held.min() > 0:
            self._covered_once = True
        elif self._covered_once:
            self._lost_since_s = now_s

    def views_agree(self) -> bool:
        """Whether every awake member sees exactly the nodes that live, with their last spans."""
        live = {
            peer.machine.node: (peer.record.start, peer.record.stop, peer.record.state)
            for number, peer in enumerate(self.gossip.peers)
            if peer is not None and peer.record is not None and not self.gossip.frozen(number)
        }
        return all(
            {node: (seen.start, seen.stop, seen.state) for node, seen in peer.seen.items()} == live
            for number, peer in enumerate(self.gossip.peers)
            if peer is not None and not self.gossip.frozen(number)
        )

    def _report(self, seconds: float) -> Report:
        tally, settings = self.tally, self.settings
        converged = tally.join_s + tally.death_s
        records = [
            peer.record
            for peer in self.gossip.peers
            if peer is not None and peer.record is not None
        ]
        rates = throughputs(records, settings.blocks)
        return Report(
            nodes=settings.nodes,
            hours=settings.hours,
            seed=settings.seed,
            blocks=settings.blocks,
            converged_p50_s=_quantile(converged, 0.5),
            converged_p99_s=_quantile(converged, 0.99),
            converged_max_s=_quantile(converged, 1.0),
            join_p99_s=_quantile(tally.join_s, 0.99),
            death_p99_s=_quantile(tally.death_s, 0.99),
            bytes_per_s_per_node=round(tally.heard_bytes / tally.up_s, 1) if tally.up_s else 0.0,
            coverage_lost_s=round(tally.coverage_lost_s, 2),
            joins=tally.joins,
            deaths=tally.deaths,
            pauses=tally.pauses,
            cuts=tally.cuts,
            moves=tally.moves,
            moves_given_up=tally.moves_given_up,
            balance=round(min(rates) * len(rates) / sum(rates), 4) if sum(rates) else 0.0,
            served=tally.served,
            retried=tally.retried,
            mended=tally.mended,
            failed=tally.failed,
            views_agree=self.views_agree(),
            trace=self.agenda.trace,
            seconds=round(seconds, 2),
        )


def _quantile(samples: list[float], share: float) -> float:
    """The sample that this share of them does not exceed; 0 if there are none."""
    ordered = sorted(samples)
    return round(ordered[max(0, -int(-share * len(ordered) // 1) - 1)], 2) if ordered else 0.0


def simulate(settings: Settings) -> Report:
    """Run one simulated swarm from its start to its quiet end."""
    return World(settings).run()
