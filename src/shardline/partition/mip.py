"""Chains by a mixed-integer programme, solved by HiGHS (through scipy): an oracle beside `exact`.

A chain is a flow from cut 0 to cut L. `x[i, a, b]` says that node i has blocks [a, b), `y[c, i, j]`
that i hands over to j at cut c; what enters a node at a cut leaves it at a later one, and a node is
used at most once. Both objectives, and so any mix, are linear in these and in t, which no stage
exceeds: minimise w * t + (1 - w) * latency. There are O(n L band + n^2 L) variables for n nodes.

For latency the relaxation is close and the solver often ends; for throughput it spreads the work
over parts of stages, and beyond some ten nodes the bound lags far behind. The solver has
tolerances, so its bound is taken a little lower, and its chain is judged by `evaluate`.
"""

from __future__ import annotations

import importlib
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from shardline.core.errors import BadInput
from shardline.partition.costs import listed
from shardline.partition.problem import Share, evaluate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shardline.partition.costs import Costs

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]
    Chain = tuple[Share, ...]

__all__ = ["VARIABLES_MAX", "Programmed", "fits", "programmed"]

_optimize = cast("Any", importlib.import_module("scipy.optimize"))
_sparse = cast("Any", importlib.import_module("scipy.sparse"))

VARIABLES_MAX = 120_000
"""32 nodes and 80 blocks have some 100,000; more only wait for the first relaxation."""
TOLERANCE = 1e-6
"""Relative; by so much the solver's bound is lowered."""
SCALE = 1e3
"""The known chain's value in the solver's units, whose own tolerances are absolute, near 1e-6."""
BRANCHES = 2_000
"""Nodes of the search tree at most where there is no time limit, so that a seed decides."""


class Programmed(NamedTuple):
    """The solver's chain, if it found one, and what no chain can beat."""

    chain: Chain | None
    bound_s: float


class _Arcs(NamedTuple):
    """Spans of nodes, then hand-overs: columns of the programme; times in seconds."""

    node: Ints
    start: Ints
    stop: Ints
    span_stage_s: Floats
    """With the way from or to the caller where the span is the first or the last."""
    span_way_s: Floats
    cut: Ints
    sender: Ints
    receiver: Ints
    transfer_s: Floats
    hop_s: Floats


def fits(costs: Costs) -> bool:
    """Whether the programme is small enough to be worth building."""
    spans = int(np.isfinite(costs.segment).sum())
    return spans + (costs.blocks - 1) * costs.nodes**2 <= VARIABLES_MAX


def programmed(
    costs: Costs, weight: float, known: Sequence[Chain], limit_s: float | None
) -> Programmed:
    """The best chain within a time limit, and the solver's bound on any chain's value.

    A known chain's value leaves out what cannot be in a better one. Raises BadInput if the
    programme is too large.
    """
    if not fits(costs):
        raise BadInput(f"mip takes a few dozen nodes, not {costs.nodes} with {costs.blocks} "
                       "blocks: --method auto plans for more and states its gap")  # fmt: skip
    values = [evaluate(costs.problem, chain).value_s(weight) for chain in known]
    upper_s = min(values, default=inf)
    arcs = _arcs(costs, upper_s, weight)
    if not len(arcs.node):
        return Programmed(None, upper_s)
    unit_s = upper_s if isfinite(upper_s) else float(arcs.span_way_s.mean())
    factor = SCALE / unit_s
    stage_s = np.concatenate([arcs.span_stage_s, arcs.transfer_s])
    way_s = np.concatenate([arcs.span_way_s, arcs.hop_s])
    price = np.concatenate([(1 - weight) * factor * way_s, [weight]])
    if weight == 1:
        price[:-1] = 0
    # Presolving takes longer than solving here: 12 s and more for 10,000 variables, against 2.
    options: dict[str, Any] = {"mip_rel_gap": 0.0, "presolve": False}
    options |= {"node_limit": BRANCHES} if limit_s is None else {"time_limit": max(0.1, limit_s)}
    solved = _optimize.milp(
        price,
        integrality=np.concatenate([np.ones(len(way_s)), [0]]),
        bounds=_optimize.Bounds(0, np.concatenate([np.ones(len(way_s)), [np.inf]])),
        constraints=[_flows(costs, arcs), _stages(costs, arcs, factor * stage_s)],
        options=options,
    )
    bound = solved.mip_dual_bound
    bound_s = bound / factor * (1 - TOLERANCE) if bound is not None and bound > 0 else 0.0
    if solved.status == 2:  # noqa: PLR2004 - infeasible: nothing beats what is known
        return Programmed(None, upper_s * (1 - TOLERANCE) if isfinite(upper_s) else inf)
    chain = None if solved.x is None else _chain(costs, arcs, solved.x)
    return Programmed(chain, min(bound_s, upper_s))


def _arcs(costs: Costs, upper_s: float, weight: float) -> _Arcs:
    """All spans and hand-overs that may be in a chain better than the known one."""
    first, last = costs.ends(first=True), costs.ends(first=False)
    start, node, extra = np.nonzero(np.isfinite(costs.segment))
    stop = start + extra + 1
    stage_s, way_s = (
        costs.segment[start, node, extra]
        + np.where(start == 0, into[node], 0.0)
        + np.where(stop == costs.blocks, out[node], 0.0)
        for into, out in zip(first, last, strict=True)
    )
    # The slowest stage is at most upper / weight; the latency at most upper / (1 - weight).
    most_s = min(upper_s / weight if weight else inf, upper_s / (1 - weight) if weight < 1 else inf)
    most_s *= 1 + TOLERANCE
    into, out = costs.cheapest_links()
    least_s = stage_s + np.where(start > 0, into[node], 0.0)
    least_s += np.where(stop < costs.blocks, out[node], 0.0)
    good: Bools = np.isfinite(way_s) & (least_s <= most_s)
    shortest_s = costs.segment[:, :, 0].min(axis=0)
    cuts: list[Ints] = []
    links: list[tuple[Ints, Ints]] = []
    times: list[tuple[Floats, Floats]] = []
    for cut in range(1, costs.blocks):
        transfer, hop = costs.links(cut)
        sent_s, got_s = transfer + (shortest_s + into), transfer + (shortest_s + out)[:, None]
        receiver, sender = np.nonzero(np.isfinite(hop) & (np.maximum(sent_s, got_s) <= most_s))
        cuts.append(np.full(len(sender), cut))
        links.append((sender, receiver))
        times.append((transfer[receiver, sender], hop[receiver, sender]))
    none_i, none_f = np.zeros(0, dtype=np.int64), np.zeros(0)
    return _Arcs(
        node[good], start[good], stop[good], stage_s[good], way_s[good],
        np.concatenate([none_i, *cuts]),
        np.concatenate([none_i, *(link[0] for link in links)]),
        np.concatenate([none_i, *(link[1] for link in links)]),
        np.concatenate([none_f, *(time[0] for time in times)]),
        np.concatenate([none_f, *(time[1] for time in times)]),
    )  # fmt: skip


def _flows(costs: Costs, arcs: _Arcs) -> object:
    """What is entered is left: [each node at most once, (node, cut) left, entered, one start]."""
    nodes, spans, size = costs.nodes, len(arcs.node), len(arcs.node) + len(arcs.cut)
    own, links = np.arange(spans), np.arange(spans, size)
    cuts = costs.blocks - 1
    left, entered, begun = nodes, nodes + nodes * cuts, nodes + 2 * nodes * cuts
    inner_stop, inner_start = arcs.stop < costs.blocks, arcs.start > 0
    rows = [
        arcs.node,
        left + (arcs.node * cuts + arcs.stop - 1)[inner_stop],
        left + arcs.sender * cuts + arcs.cut - 1,
        entered + (arcs.node * cuts + arcs.start - 1)[inner_start],
        entered + arcs.receiver * cuts + arcs.cut - 1,
        np.full(int((~inner_start).sum()), begun),
    ]
    columns = [own, own[inner_stop], links, own[inner_start], links, own[~inner_start]]
    signs = [1.0, 1.0, -1.0, -1.0, 1.0, 1.0]
    values = [np.full(len(row), sign) for row, sign in zip(rows, signs, strict=True)]
    matrix = _sparse.csc_array(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
        shape=(begun + 1, size + 1),
    )
    low, high = np.zeros(begun + 1), np.zeros(begun + 1)
    high[:nodes] = low[begun] = high[begun] = 1
    return _optimize.LinearConstraint(matrix, low, high)


def _stages(costs: Costs, arcs: _Arcs, stage: Floats) -> object:
    """No stage takes longer than t, the last column."""
    spans, size = len(arcs.node), len(stage)
    own, links = np.arange(spans), np.arange(spans, size)
    rows = np.concatenate([arcs.node, arcs.sender, arcs.receiver, np.arange(costs.nodes)])
    columns = np.concatenate([own, links, links, np.full(costs.nodes, size)])
    values = [stage, stage[spans:], np.full(costs.nodes, -1.0)]
    matrix = _sparse.csc_array(
        (np.concatenate(values), (rows, columns)), shape=(costs.nodes, size + 1)
    )
    return _optimize.LinearConstraint(matrix, -np.inf, 0.0)


def _chain(costs: Costs, arcs: _Arcs, solution: Floats) -> Chain:
    """The spans that are taken, in the order of their blocks."""
    taken: Ints = np.flatnonzero(solution[: len(arcs.node)] > 0.5)  # noqa: PLR2004 - rounding
    taken = taken[arcs.start[taken].argsort()]
    ends = zip(
        listed(costs.names[arcs.node[taken]]), listed(arcs.start[taken]), listed(arcs.stop[taken]),
        strict=True,
    )  # fmt: skip
    return tuple(Share(*end) for end in ends)
