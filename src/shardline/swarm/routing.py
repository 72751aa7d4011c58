"""The shortest chain of nodes through all blocks, or through some of them (BSNS, PAPER section 1).

A pure search over (node, block): going on within a node costs its block's time, changing the node
costs half the round trip between the two, a constant for frames and wake-ups, and the wait in the
next node's queue. This is the latency rule of the runtime family that BSNS builds on (Petals), with
measured times where they are known. Ours: load stretches a node's blocks, full caches and banned
nodes cost more than any chain without them, nodes about to move cost a second, and a salt spreads
callers over near-equal nodes.

Nodes are changed only where one's span ends or the other's begins. Anywhere else, moving the change
towards the faster of the two costs less, until one of those places is reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from shardline.core.errors import NotCovered
from shardline.core.spans import Span
from shardline.swarm.gaps import explained, gaps_of
from shardline.swarm.records import NodeRecord, State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from shardline.core.ids import NodeId

__all__ = ["WEIGHTS", "Hop", "Weights", "choose_chain"]

CACHE_FULL_MS = 1e6
"""Entering a node without room for the session: it would refuse, unless its record is old."""
MOVING_MS = 1e3
"""Entering a node that is about to leave blocks of the chain: the session would have to go on
elsewhere soon, at the cost of a replay."""
DISCOURAGED_MS = 1e9
"""Entering a discouraged node: more than any chain without one."""
BRANCHES_MAX = 3
"""Nodes that a chain may want twice; it is rare that it wants one."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What is traded against what; `simulate tune` looks for better ones (decision 0016)."""

    hop_ms: float = 1.0
    """What each hop costs beside its link; a larger value gives shorter chains."""
    rtt_unknown_ms: float = 50.0
    """A link nobody has measured: worse than a LAN, so that a known good one is preferred."""
    block_unknown_ms: float = 5.0
    """A block's time on a node that has not measured yet."""
    load_max: float = 0.9
    """A node that computes all the time takes 1 / (1 - load_max) as long as an idle one, not for
    ever: its record may be old."""
    queue: float = 1.0
    """How much of the queue that a record tells of still counts when one gets there."""
    spread: float = 0.1
    """With a salt, how much slower a node may seem than it is. More spreads callers over less equal
    nodes; none sends all of them to whoever is a hair faster, until its next record tells them."""


WEIGHTS: Final = Weights()


@dataclass(frozen=True, slots=True)
class Hop:
    """One node's part of a chain; `span` lies within the node's own."""

    node: NodeId
    span: Span


class _Seat:
    """A usable node, with what it costs and the cheapest way so far that ends on it."""

    __slots__ = (
        "block_ms", "cost_ms", "enter_ms", "hops", "measured",
        "node", "order", "start", "stop", "way",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913 - what a seat costs has many sides
        self,
        record: NodeRecord,
        *,
        within: Span,
        order: bytes | str,
        slower: float,
        enter_ms: float,
        weights: Weights,
    ) -> None:
        rate = record.block_steps_per_s
        block_ms = 1000 / rate if rate else weights.block_unknown_ms
        self.node = record.node
        self.measured = record.links.get
        self.start = max(record.start, within.start)
        self.stop = min(record.stop, within.stop)
        self.order = order
        self.block_ms = block_ms * slower / (1 - min(record.load, weights.load_max))
        waiting_ms = record.queue * block_ms * (record.stop - record.start)
        self.enter_ms = weights.hop_ms + enter_ms + weights.queue * waiting_ms
        self.cost_ms = inf
        self.hops = 0
        self.way: _Way | None = None


_cost_ms = attrgetter("cost_ms")
_rank = attrgetter("cost_ms", "hops", "order")


@dataclass(slots=True)
class _Way:
    """The node entered at this block, and how one came there."""

    node: NodeId
    start: int
    back: _Way | None


def choose_chain(  # noqa: PLR0913 - each names one part of what is asked
    records: Iterable[NodeRecord],
    *,
    blocks: int,
    fingerprint: str,
    dtype: str | None = None,
    within: Span | None = None,
    before: NodeId | None = None,
    after: NodeId | None = None,
    avoid: Collection[NodeId] = (),
    discouraged: Mapping[NodeId, float] | None = None,
    links: Mapping[NodeId, float] | None = None,
    tokens: int = 0,
    salt: str | None = None,
    weights: Weights = WEIGHTS,
) -> tuple[Hop, ...]:
    """The cheapest chain of ready nodes that passes each of the blocks once, in order.

    The blocks are those of `within`, by default [0, blocks). `fingerprint` is the model to serve,
    `dtype` the only one to accept. `before` and `after` are the nodes that the chain will hang
    between, None being the caller, whose own round-trip times in ms are `links`. `avoid` names
    nodes never to use; `discouraged` names nodes to use only where no chain goes without, fewest
    first, then those with the least value (`Bans.avoid`: seconds left). A node with less room than
    `tokens` is used only where no other chain is, short of discouraged ones. `salt`, a session's
    id, picks among equals, and near-equals, at random; without it the least id wins. A node is in
    a chain at most once. Raises NotCovered with every gap named.
    """
    known = list(records)
    part = within or Span(0, blocks)
    usable = [
        held
        for held in known
        if held.start < part.stop
        and part.start < held.stop
        and held.state is State.READY
        and (held.fingerprint, held.blocks) == (fingerprint, blocks)
        and dtype in {None, held.dtype}
        and held.node not in avoid
    ]
    missing = gaps_of(usable, part)
    if missing:
        raise NotCovered(explained(missing, known, fingerprint, dtype, avoid))
    last = {held.node: _extra_ms(held, part, tokens, discouraged or {}) for held in usable}

    def seats() -> list[_Seat]:
        return [_seat(held, part, salt, last[held.node], weights) for held in usable]

    links_of = {record.node: record.links for record in known if record.node in {before, after}}
    ends = _Ends(before, after, links or {}, links_of, weights.rtt_unknown_ms)
    return _once_each(seats, part, ends)


def _extra_ms(
    record: NodeRecord, part: Span, tokens: int, discouraged: Mapping[NodeId, float]
) -> float:
    """What entering costs beside the rule, so that it is the last resort."""
    full = record.cache_tokens_total and record.cache_tokens_free < tokens
    extra_ms = CACHE_FULL_MS if full else 0.0
    to = record.moves_to
    first, stop = max(record.start, part.start), min(record.stop, part.stop)
    if to is not None and not to.start <= first < stop <= to.stop:
        extra_ms += MOVING_MS
    if record.node in discouraged:
        extra_ms += DISCOURAGED_MS + min(1e3 * discouraged[record.node], DISCOURAGED_MS / 1e3)
    return extra_ms


def _seat(
    record: NodeRecord, within: Span, salt: str | None, enter_ms: float, weights: Weights
) -> _Seat:
    order: bytes | str = record.node
    slower = 1.0
    if salt is not None:
        order = blake2b(record.node.encode(), digest_size=4, key=salt.encode()[:64]).digest()
        slower += weights.spread * int.from_bytes(order, "big") / 2**32
    return _Seat(
        record, within=within, order=order, slower=slower, enter_ms=enter_ms, weights=weights
    )


@dataclass(frozen=True, slots=True)
class _Ends:
    """What a chain hangs between."""

    before: NodeId | None
    after: NodeId | None
    own: Mapping[NodeId, float]
    links: Mapping[NodeId, Mapping[NodeId, float]]
    unknown_ms: float

    def link_ms(self, end: NodeId | None, seat: _Seat) -> float:
        """One way between an end of the chain and a node; the caller is the node None."""
        if end is None:
            return self.own.get(seat.node, self.unknown_ms) / 2
        if end == seat.node:
            return 0.0
        measured = seat.measured(end)
        if measured is None:
            measured = self.links.get(end, {}).get(seat.node, self.unknown_ms)
        return measured / 2


def _once_each(
    make: Callable[[], list[_Seat]],
    part: Span,
    ends: _Ends,
    limits: Mapping[NodeId, Span] | None = None,
) -> tuple[Hop, ...]:
    """The cheapest chain that is in each node once.

    The search compares ways block by block, so it may come back to a node that it left. Then that
    node keeps what lies between, or is used before it comes back only, or after: the cheapest.
    """
    limits = limits or {}
    seats = {seat.node: seat for seat in make()}
    for node, limit in limits.items():
        seats[node].start = max(seats[node].start, limit.start)
        seats[node].stop = min(seats[node].stop, limit.stop)
    way = _search([seat for seat in seats.values() if seat.start < seat.stop], part, ends)
    if way is None:
        return ()
    hops = _hops(way, part)
    back = _comes_back(way)
    if back is None or len(limits) == BRANCHES_MAX:
        return hops
    node, block = back
    if node in limits:
        return hops
    halves = Span(part.start, block), Span(block, part.stop)
    chains = [_once_each(make, part, ends, {**limits, node: half}) for half in halves]
    return min(filter(None, [hops, *chains]), key=lambda chain: _cost(chain, seats, ends))


def _comes_back(way: _Way | None) -> tuple[NodeId, int] | None:
    """The first node from the end that the way left before, and where it comes back."""
    steps: list[_Way] = []
    while way is not None:
        steps.append(way)
        way = way.back
    for index, step in enumerate(steps):
        if any(earlier.node == step.node for earlier in steps[index + 1 :]):
            return step.node, step.start
    return None


def _cost(chain: tuple[Hop, ...], seats: Mapping[NodeId, _Seat], ends: _Ends) -> float:
    """What this chain costs, link by link and node by node."""
    first, last = seats[chain[0].node], seats[chain[-1].node]
    cost_ms = ends.link_ms(ends.before, first) + ends.link_ms(ends.after, last)
    for hop in chain:
        seat = seats[hop.node]
        cost_ms += seat.enter_ms + len(hop.span) * seat.block_ms
    for hop, then in pairwise(chain):
        rtt_ms = seats[hop.node].measured(then.node)
        if rtt_ms is None:
            rtt_ms = seats[then.node].measured(hop.node)
        cost_ms += (ends.unknown_ms if rtt_ms is None else rtt_ms) / 2
    return cost_ms


def _search(seats: list[_Seat], part: Span, ends: _Ends) -> _Way | None:
    """Block by block, the cheapest way to every node that holds it; None where there is none."""
    starting: dict[int, list[_Seat]] = {}
    for seat in sorted(seats, key=lambda seat: seat.order):
        starting.setdefault(seat.start, []).append(seat)
    here: list[_Seat] = []
    for block in range(part.start, part.stop):
        fresh = starting.get(block, [])
        if block == part.start:
            for seat in fresh:
                seat.cost_ms = seat.enter_ms + ends.link_ms(ends.before, seat)
                seat.hops, seat.way = 1, _Way(seat.node, block, None)
        else:
            here = _change(here, fresh, block, ends.unknown_ms)
        here = here + fresh
        for seat in here:
            seat.cost_ms += seat.block_ms
    for seat in here:
        seat.cost_ms += ends.link_ms(ends.after, seat)
    best = min(here, key=_rank, default=None)
    return best.way if best is not None and best.cost_ms < inf else None


def _change(here: list[_Seat], fresh: list[_Seat], block: int, unknown_ms: float) -> list[_Seat]:
    """Let ways change nodes before this block; returns the nodes that go on.

    Ways are compared as they were before this block: no node is changed twice at one place.
    """
    ending = [seat for seat in here if seat.stop == block]
    if not ending and not fresh:
        return here
    here.sort(key=_cost_ms)
    changes = [_enter(seat, here, unknown_ms) for seat in fresh]
    staying = here
    if ending:
        staying = [seat for seat in here if seat.stop > block]
        ending.sort(key=_cost_ms)
        least_ms = ending[0].cost_ms
        changes += [
            _enter(seat, ending, unknown_ms, against=seat)
            for seat in staying
            if least_ms + seat.enter_ms <= seat.cost_ms
        ]
    for seat, cost_ms, source in filter(None, changes):
        seat.cost_ms, seat.hops = cost_ms, source[0] + 1
        seat.way = _Way(seat.node, block, source[1])
    return staying


_Change = tuple[_Seat, float, tuple[int, _Way | None]]


def _enter(
    seat: _Seat, ways: list[_Seat], unknown_ms: float, against: _Seat | None = None
) -> _Change | None:
    """The cheapest of these ways, sorted by cost, into this node, if it beats what is known."""
    node, measured, enter_ms = seat.node, seat.measured, seat.enter_ms
    cost_ms = against.cost_ms if against else inf
    hops = against.hops if against else 0
    best: _Seat | None = None
    for way in ways:
        entered_ms = way.cost_ms + enter_ms
        if entered_ms > cost_ms:
            break  # so are all that follow
        rtt_ms = way.measured(node)
        if rtt_ms is None and (rtt_ms := measured(way.node)) is None:
            rtt_ms = unknown_ms
        entered_ms += rtt_ms / 2
        if entered_ms < cost_ms or (entered_ms == cost_ms and way.hops + 1 < hops):
            cost_ms, hops, best = entered_ms, way.hops + 1, way
    return (seat, cost_ms, (best.hops, best.way)) if best else None


def _hops(way: _Way | None, part: Span) -> tuple[Hop, ...]:
    """The way as hops. A node that it comes back to keeps what lies between: it holds that too."""
    hops: list[Hop] = []
    stop = part.stop
    steps: list[_Way] = []
    while way is not None:
        steps.append(way)
        way = way.back
    while steps:
        node = steps[0].node
        last = max(index for index, step in enumerate(steps) if step.node == node)
        hops.append(Hop(node, Span(steps[last].start, stop)))
        stop = steps[last].start
        steps = steps[last + 1 :]
    return tuple(reversed(hops))
