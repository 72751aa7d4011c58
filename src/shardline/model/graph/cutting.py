"""A graph's ops on n stages, and the program of each (PAPER section 2: an acyclic quotient graph).

A stage is given live values by name and gives others; no stage waits for a later one.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Final

import numpy as np

from shardline.core.errors import BadInput
from shardline.model.graph.program import Program, Ref, each
from shardline.model.graph.sizes import value_of
from shardline.model.graph.weighing import roots, value_bytes, weigh_ops

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from shardline.model.graph.capturing import Graph
    from shardline.model.graph.weighing import Weight

__all__ = ["crossing_bytes", "cut_graph", "place_evenly"]

HALVINGS: Final = 10
SLACK: Final = 0.2
"""How much more work than in the evenest cut a stage may have, so that less crosses."""


def cut_graph(graph: Graph, placing: Mapping[int, int]) -> tuple[Program, ...]:
    """The stages' programs, of the stage of each op that must be placed.

    Ops that need no input are copied to each stage that reads them. Raises BadInput if an op has no
    stage, a stage no op, or a stage would wait for a later one.
    """
    ops, root_of = graph.program.ops, roots(graph)
    count = max(placing.values(), default=-1) + 1
    if set(placing) != set(root_of) or set(placing.values()) != set(range(count)):
        raise BadInput(f"{count} stages do not share out the {len(root_of)} ops of the graph")
    stage_of = {op.name: placing[at] for at, op in enumerate(ops) if at in placing}
    free = {op.name: op for at, op in enumerate(ops) if at not in placing}
    needs = [_needs(graph, placing, free, stage, count) for stage in range(count)]
    programs: list[Program] = []
    results = [value.name for value in graph.program.outputs]
    for stage, (held, read) in enumerate(needs):
        early = [name for name in read if stage_of.get(name, stage) > stage]
        if early:
            raise BadInput(f"stage {stage} would wait for {early[0]} of a later one")
        later = {name for _, others in needs[stage + 1 :] for name in others}
        made = {ops[at].name for at in held}
        given = [name for name in made if stage_of.get(name) == stage and name in later]
        final = [n for n in results if stage_of.get(n, count - 1) == stage]
        names = sorted({*given, *final})
        programs.append(
            Program(
                [ops[at] for at in held],
                [value_of(name, graph.seen[name]) for name in sorted(read)],
                [value_of(name, graph.seen[name]) for name in names],
                {n: held for n, held in graph.program.aliases.items() if n in names},
            )
        )
    return tuple(programs)


def _needs(
    graph: Graph, placing: Mapping[int, int], free: Mapping[str, object], stage: int, count: int
) -> tuple[list[int], set[str]]:
    """The ops that a stage runs, in order, and the values that others must give it."""
    ops = graph.program.ops
    held: list[int] = []
    wanted: set[str] = set()
    if stage == count - 1:
        wanted |= {value.name for value in graph.program.outputs if value.name in free}
    for at in range(len(ops) - 1, -1, -1):
        if placing.get(at) == stage or (ops[at].name in wanted and at not in placing):
            held.append(at)
            wanted |= {atom.name for atom in each(ops[at]) if isinstance(atom, Ref)}
    return held[::-1], wanted - {ops[at].name for at in held}


def place_evenly(graph: Graph, stages: int, slack: float = SLACK) -> dict[int, int]:
    """A placing on so many stages: even work first, then the fewest bytes between them.

    SliceGraph (PAPER 2) over the order in which the module's own code runs: among all cuts whose
    largest stage has at most `slack` more work than that of the evenest, the one over which the
    fewest bytes go. Raises BadInput if there are fewer ops than stages.
    """
    weights, root_of = weigh_ops(graph), roots(graph)
    order = [at for at in root_of if root_of[at] == at]
    if not 0 < stages <= len(order):
        raise BadInput(f"{len(order)} ops cannot be cut into {stages} stages")
    work = _work(weights, root_of, order)
    bounds = np.array([0.0, *accumulate(work)])
    crossing = crossing_bytes(graph, root_of, order)
    cuts = _best(bounds, np.zeros(len(order) + 1), stages, np.inf)
    low, high = _largest(bounds, cuts), _largest(bounds, cuts) * (1 + slack) * (1 + 1e-9)
    cuts = _best(bounds, crossing, stages, high)
    fewest = crossing[cuts[1:-1]].sum()
    for _ in range(HALVINGS):  # of the cuts that are as cheap, the evenest
        limit = (low + high) / 2
        tried = _best(bounds, crossing, stages, limit)
        if crossing[tried[1:-1]].sum() <= fewest:
            cuts, high = tried, limit
        else:
            low = limit
    stage_of = {
        root: stage for stage in range(stages) for root in order[cuts[stage] : cuts[stage + 1]]
    }
    return {at: stage_of[root] for at, root in root_of.items()}


def _largest(bounds: NDArray[np.float64], cuts: list[int]) -> float:
    return float(np.diff(bounds[cuts]).max())


def _work(weights: Sequence[Weight], root_of: Mapping[int, int], order: list[int]) -> list[float]:
    work = dict.fromkeys(order, 0.0)
    for at, root in root_of.items():
        work[root] += weights[at].work_s()
    return list(work.values())


def crossing_bytes(
    graph: Graph, root_of: Mapping[int, int], order: list[int]
) -> NDArray[np.float64]:
    """Bytes that are alive between the op before and the op at each place, inputs included."""
    place = {root: at for at, root in enumerate(order)}
    made = {value.name: 0 for value in graph.program.inputs}
    last: dict[str, int] = {}
    for at, root in root_of.items():
        op = graph.program.ops[at]
        made[op.name] = place[root] + 1
        last |= {a.name: place[root] for a in each(op) if isinstance(a, Ref) and a.name in made}
    change = np.zeros(len(order) + 2)
    for name, end in last.items():
        if end >= made[name]:
            size = value_bytes(graph.seen[name])
            change[made[name]] += size
            change[end + 1] -= size
    return np.cumsum(change)[: len(order) + 1]


def _best(
    bounds: NDArray[np.float64], crossing: NDArray[np.float64], stages: int, limit: float
) -> list[int]:
    """Where to cut so that the most work of a stage is least, or bytes are few within a limit.

    With an infinite limit the largest stage counts, otherwise the sum of what crosses.
    """
    count = len(bounds) - 1
    value = np.full((stages + 1, count + 1), np.inf)
    came = np.zeros((stages + 1, count + 1), dtype=np.int64)
    value[0, 0] = 0.0
    for stage in range(1, stages + 1):
        for stop in range(stage, count + 1):
            starts = np.arange(stage - 1, stop)
            work = bounds[stop] - bounds[starts]
            if limit == np.inf:
                found = np.maximum(value[stage - 1, starts], work)
            else:
                found = value[stage - 1, starts] + crossing[starts]
                found[work > limit] = np.inf
            best = int(found.argmin())
            value[stage, stop], came[stage, stop] = found[best], starts[best]
    cuts = [count]
    for stage in range(stages, 0, -1):
        cuts.append(int(came[stage, cuts[-1]]))
    return cuts[::-1]
