"""A live swarm as `plan` sees it: its machines and links as if written down, and what it does now.

A record tells a machine's memory, its speed on the blocks it holds, and what it measured of its
links; this machine, the caller, measures its own. What nobody measured is estimated (`topology`).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter
from dataclasses import dataclass, replace
from itertools import chain
from itertools import count as count_from
from statistics import median
from typing import TYPE_CHECKING, Any

from shardline.cli.looking import everybody, round_trips_ms, visiting
from shardline.cli.nodes_file import CALLER, End, Link, Machine, NodesFile
from shardline.core.errors import BadInput, NotCovered
from shardline.swarm import Flow, State, choose_chain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from shardline.core.ids import NodeId
    from shardline.partition import Plan, Problem
    from shardline.swarm import Invite, NodeRecord
    from shardline.topology import LinkMatrix, Probe

__all__ = ["Live", "Standing", "Survey", "shared", "standing", "survey", "visit"]

BLOCK_UNKNOWN_MS = 5.0
"""A block's step where no node of the model has measured it: as routing guesses."""
RATES_MAX = 4
"""Nodes that bursts are sent to from here, the nearest: enough to know this machine's own line."""
RATES_S = 15.0
IDLE_LOAD = 0.02
MBIT_BYTES = 1e6 / 8
NAME_CHARS = 48


@dataclass(frozen=True, slots=True)
class Live:
    """What a visit gives: the nodes that stay, and this machine's ways to them."""

    records: tuple[NodeRecord, ...]
    ways: Mapping[NodeId, tuple[float, Flow]]
    """The round trip in ms and the rates from here, for those who answered."""
    now_s: float


async def visit(invite: Invite) -> Live:
    """Join as a caller, read what nodes say, measure the ways to them; BadInput for nobody."""
    from shardline.node import measure_rates

    async with visiting(invite) as member:
        found = await everybody(member)
        records = sorted(
            (record for record in found.values() if record.state is not State.LEAVING),
            key=lambda record: (record.start, record.name, record.node),
        )
        if not records:
            raise BadInput("nobody serves in this swarm: start nodes, or plan with --nodes FILE")
        rtts_ms = await round_trips_ms(member, [record.node for record in records])
        ways = {node: (ms, Flow()) for node, ms in rtts_ms.items() if ms is not None}
        idle = {r.node for r in records if r.load < IDLE_LOAD and r.state is State.READY}
        nearest = sorted(ways.keys() & idle, key=lambda node: ways[node][0])[:RATES_MAX]
        with contextlib.suppress(TimeoutError):  # the rest is estimated
            async with asyncio.timeout(RATES_S):
                for node in nearest:
                    rates = await measure_rates(member.switchboard, node)
                    if rates is not None:
                        flow = Flow(rates.up_kbit_s, rates.down_kbit_s)
                        ways[node] = (ways[node][0], flow)
    return Live(tuple(records), ways, time.time())


@dataclass(frozen=True, slots=True)
class Survey:
    """A swarm written down for one model, and how much of that somebody measured."""

    live: Live
    fingerprint: str
    file: NodesFile
    names: Mapping[NodeId, str]
    """What each node is called in the file: names are not unique in a swarm."""
    dtype: str | None
    """Of most nodes of this model."""
    speeds: int
    round_trips: tuple[int, int]
    """Measured, of how many."""
    rates: tuple[int, int]

    def sentence(self) -> str:
        """What the plan rests on, for a person."""
        nodes = len(self.names)
        if not self.speeds and not self.rates[0]:
            return (
                f"nothing is measured in this swarm yet: a block counts as {BLOCK_UNKNOWN_MS:.0f} "
                "ms and links as equally fast, so only memory and round trips tell nodes apart"
            )
        trips, rates = (f"{known} of {links}" for known, links in (self.round_trips, self.rates))
        speeds = f"{self.speeds} of {nodes} speeds"
        return f"measured: {speeds}, {trips} round trips, {rates} rates; the rest is estimated"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "nodes": {name: node for node, name in self.names.items()},
            "speeds_measured": self.speeds,
            "round_trips_measured": self.round_trips[0],
            "round_trips": self.round_trips[1],
            "rates_measured": self.rates[0],
            "rates": self.rates[1],
        }


def survey(live: Live, fingerprint: str) -> Survey:
    """The swarm as a file of nodes for the model of this fingerprint."""
    from shardline.topology import link_matrix

    names = _names(live.records)
    matrix = link_matrix([*names.values(), CALLER], _probes(live, names))
    block_ms = {record.node: _block_ms(record, fingerprint) for record in live.records}
    known = [ms for ms in block_ms.values() if ms is not None]
    usual_ms = median(known) if known else BLOCK_UNKNOWN_MS
    machines = [
        Machine(
            name=names[record.node],
            memory_bytes=record.memory_bytes,
            end=End(),
            block_ms=block_ms[record.node] or usual_ms,
        )
        for record in live.records
    ]
    votes = Counter(record.dtype for record in live.records if record.fingerprint == fingerprint)
    ends = len(matrix.nodes)
    return Survey(
        live=live,
        fingerprint=fingerprint,
        file=NodesFile(End(), tuple(machines), tuple(_links(matrix))),
        names=names,
        dtype=votes.most_common(1)[0][0] if votes else None,
        speeds=len(known),
        round_trips=(int(matrix.measured.sum()) // 2, ends * (ends - 1) // 2),
        rates=(int(matrix.rate_measured.sum()), ends * (ends - 1)),
    )


def _block_ms(record: NodeRecord, fingerprint: str) -> float | None:
    """A block's decode step on this node, if it has measured it on this model."""
    rate = record.block_steps_per_s if record.fingerprint == fingerprint else 0.0
    return 1e3 / rate if rate else None


def _names(records: Sequence[NodeRecord]) -> dict[NodeId, str]:
    """Each node's own name, made plain, with a number behind it where another has it already."""
    names: dict[str, NodeId | None] = {CALLER: None}
    for record in records:
        plain = re.sub(r"[^\w.-]+", "-", record.name)[:NAME_CHARS]
        numbered = (f"{plain}-{count}" for count in count_from(2))
        name = next(name for name in chain([plain], numbered) if name not in names)
        names[name] = record.node
    return {node: name for name, node in names.items() if node is not None}


def _probes(live: Live, names: Mapping[NodeId, str]) -> Iterator[Probe]:
    """What everybody measured of the ways to those who are here."""
    for record in live.records:
        age_s = max(0.0, live.now_s - record.issued_at_s)
        for node, rtt_ms, flow in record.measured():
            if node in names and node != record.node:
                yield from _both_ways(names[record.node], names[node], rtt_ms, flow, age_s)
    for node, (rtt_ms, flow) in live.ways.items():
        yield from _both_ways(CALLER, names[node], rtt_ms, flow, 0.0)


def _both_ways(
    source: str, target: str, rtt_ms: float, flow: Flow, age_s: float
) -> Iterator[Probe]:
    from shardline.topology import Probe

    up, down = (kbit_s * 125.0 or None for kbit_s in (flow.up_kbit_s, flow.down_kbit_s))
    yield Probe(source, target, rtt_ms, up, age_s)
    yield Probe(target, source, None, down, age_s)


def _links(matrix: LinkMatrix) -> Iterator[Link]:
    rates = matrix.bytes_per_s / MBIT_BYTES
    for i, a in enumerate(matrix.nodes):
        for j, b in enumerate(matrix.nodes[:i]):
            rtt_ms = float(matrix.rtt_ms[i, j])
            yield Link(a, b, rtt_ms, float(rates[i, j]), float(rates[j, i]))


@dataclass(frozen=True, slots=True)
class Standing:
    """The chain that a caller gets today, judged as the plan is."""

    seen: Survey
    assignment: tuple[tuple[str, int, int], ...]
    """Node, start, stop; empty if the swarm does not cover the model."""
    stage_ms: tuple[float, ...]
    bottleneck_ms: float
    latency_ms: float
    value_ms: float
    why_not: str = ""

    def sentences(self, plan: Plan) -> tuple[str, str]:
        """For a person: what it does and what the plan would do, and what both rest on."""
        return self._beside(plan), self.seen.sentence()

    def _beside(self, plan: Plan) -> str:
        if self.why_not:
            return f"now: {self.why_not}"
        kind = "one stream" if plan.objective == "latency" else "many streams"
        chain = ", ".join(f"{node} {start}:{stop}" for node, start, stop in self.assignment)
        ratio = self.value_ms / plan.value_ms
        return (
            f"now: {1e3 / self.value_ms:.1f} tokens/s for {kind} over {chain}; "
            f"the plan: {1e3 / plan.value_ms:.1f}, {ratio:.2f} times as many"
        )

    def to_json(self, plan: Plan) -> dict[str, Any]:
        """Plain data, with what it rests on; no figures if there is no chain."""
        if self.why_not:
            return self.seen.to_json() | {"now": None, "ratio": None, "why_not": self.why_not}
        keys = ("node", "start", "stop")
        now = {
            "assignment": [dict(zip(keys, share, strict=True)) for share in self.assignment],
            "stage_ms": list(self.stage_ms),
            "bottleneck_ms": self.bottleneck_ms,
            "latency_ms": self.latency_ms,
            "value_ms": self.value_ms,
        }
        ratio = self.value_ms / plan.value_ms
        return self.seen.to_json() | {"now": now, "ratio": ratio, "why_not": None}


def standing(seen: Survey, problem: Problem, dtype: str, objective: str) -> Standing:
    """What the swarm's spans do now on the same numbers: the chain that routing picks from here."""
    from shardline.partition import Share, evaluate, weight_of

    try:
        hops = choose_chain(
            seen.live.records,
            blocks=len(problem.blocks),
            fingerprint=seen.fingerprint,
            dtype=dtype,
            links={node: rtt_ms for node, (rtt_ms, _) in seen.live.ways.items()},
        )
    except NotCovered as error:
        return Standing(seen, (), (), 0.0, 0.0, 0.0, str(error))
    place = {node.name: index for index, node in enumerate(problem.nodes)}
    shares = [Share(place[seen.names[hop.node]], hop.span.start, hop.span.stop) for hop in hops]
    figures = evaluate(_roomy(problem), shares)
    return Standing(
        seen=seen,
        assignment=tuple((seen.names[hop.node], hop.span.start, hop.span.stop) for hop in hops),
        stage_ms=tuple(1e3 * stage_s for stage_s in figures.stage_s),
        bottleneck_ms=1e3 * figures.bottleneck_s,
        latency_ms=1e3 * figures.latency_s,
        value_ms=1e3 * figures.value_s(weight_of(objective)),
    )


def shared(now: Standing, problem: Problem, dtype: str) -> Standing:
    """The same of all spans of the swarm at once, as its callers could share them at best.

    There are no single stages then; the latency stays that of one chain.
    """
    from shardline.partition import spans_carry

    if now.why_not:
        return now
    seen = now.seen
    held = {
        seen.names[record.node]: record.span
        for record in seen.live.records
        if (record.fingerprint, record.dtype) == (seen.fingerprint, dtype)
        and record.state is State.READY
    }
    value_ms = 1e3 / spans_carry(_roomy(problem), held)
    spans = sorted((span, name) for name, span in held.items())
    return replace(
        now,
        assignment=tuple((name, span.start, span.stop) for span, name in spans),
        stage_ms=(),
        bottleneck_ms=value_ms,
        value_ms=value_ms,
    )


def _roomy(problem: Problem) -> Problem:
    """They hold their blocks, with as much cache as they have: memory is no question."""
    held = sum(block.parameter_bytes + block.cache_bytes for block in problem.blocks)
    return replace(problem, nodes=tuple(replace(node, memory_bytes=held) for node in problem.nodes))
