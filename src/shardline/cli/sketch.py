"""What a drawing of a plan shows, worked out before any ink: who is where, and what takes how long.

Pure, and in inches of paper. The distances are nearly round trips (`topology.picture`): nodes that
would lie on one another are pushed apart, as far as their discs need.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product
from math import cos, inf, pi, sin
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from shardline import topology  # whole: `picture` is also a module of it
from shardline.cli.nodes_file import CALLER
from shardline.partition import Share, evaluate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from shardline.partition import Plan, Problem

    Floats = NDArray[np.float64]

__all__ = [
    "BEND",
    "HEIGHT",
    "WIDTH",
    "Box",
    "Part",
    "Sketch",
    "arrows",
    "hull",
    "label_places",
    "sketch",
]

WIDTH, HEIGHT = 6.6, 4.7
"""Of the network's panel."""
MARGIN = 0.5
DISC_MAX, DISC_SHARE = 0.13, 0.13
"""A disc's radius, for the median memory; of many, the share of the room that a node has."""
SMALLER, LARGER = 0.6, 1.8
NAMED_MAX = 40
"""Of more nodes only those of the chain are named."""
FAR_SHARE = 0.02
"""Of many nodes, so many may be farther out on each side than the panel shows: they are at its
edge. A few far nodes would make one point of all others."""
ROUNDS, TOUCHING, CROWD = 150, 0.004, 3
"""Discs are pushed apart so often at most, until none lies on another by so much."""
GOLDEN = pi * (3 - 5**0.5)
LABEL_STEPS = (0.04, 0.16, 0.3, 0.5, 0.75, 1.05)
LABEL_TURNS = 16
MISSED_MAX = 0.35
"""So far from a round trip a distance on paper may be, in the median, to have a scale."""
HIDDEN = 0.04
"""How much farther a label may be, in inches, to hide one point less of an arrow."""
BEND, ARROW_POINTS = 0.12, 40


Kind = Literal["way", "transfer", "work", "streaming"]


class Part(NamedTuple):
    """A piece of a stage's time."""

    kind: Kind
    start_ms: float
    ms: float


class Box(NamedTuple):
    """A rectangle on paper: its middle and its half sizes."""

    x: float
    y: float
    half_width: float
    half_height: float

    def covers(self, other: Box) -> bool:
        """Whether the two have anything in common."""
        apart_x, apart_y = abs(self.x - other.x), abs(self.y - other.y)
        wide, high = self.half_width + other.half_width, self.half_height + other.half_height
        return apart_x < wide and apart_y < high


@dataclass(frozen=True, slots=True)
class Sketch:
    """A plan on its network; arrays are in the order of `shape.nodes`."""

    shape: topology.Picture
    """Of all nodes and the caller."""
    places: Floats
    """n x 2, in inches of the panel."""
    radii: Floats
    cluster: tuple[int, ...]
    """Which of `shape.clusters.groups` each is of."""
    inch_ms: float
    """A round trip this long is an inch, nearly; 0 where paper cannot show round trips."""
    chain: tuple[int, ...]
    """Places in `shape.nodes` of the chain's nodes."""
    caller: int
    stages: tuple[tuple[Part, ...], ...]
    """One for each of the chain; where a token's own way is drawn, one more for the way back."""
    slowest: int
    total_ms: float
    """The figure that the plan makes small: the slowest stage, or the whole way."""

    @property
    def named(self) -> bool:
        """Whether nodes that are not in the chain have their names too."""
        return len(self.places) <= NAMED_MAX


def sketch(problem: Problem, plan: Plan) -> Sketch:
    """All that is drawn; the same problem and plan give the same."""
    links = _links(problem)
    shape = topology.picture(links)
    index = {name: place for place, name in enumerate(shape.nodes)}
    memory = {node.name: node.memory_bytes for node in problem.nodes}
    usual = float(np.median(list(memory.values()))) or 1.0
    sizes = np.array([memory.get(name, usual) / usual for name in shape.nodes])
    disc = min(DISC_MAX, DISC_SHARE * (WIDTH * HEIGHT / len(sizes)) ** 0.5)
    radii: Floats = disc * np.clip(np.sqrt(sizes), SMALLER, LARGER)
    places = _laid_out(shape.places_ms, radii)
    group = {name: at for at, names in enumerate(shape.clusters.groups) for name in names}
    stages = _stages(problem, plan)
    return Sketch(
        shape=shape,
        places=places,
        radii=radii,
        cluster=tuple(group[name] for name in shape.nodes),
        inch_ms=_inch_ms(places, links.rtt_ms),
        chain=tuple(index[share.node] for share in plan.assignment),
        caller=index[CALLER],
        stages=stages,
        slowest=int(np.argmax(plan.stage_ms)),
        total_ms=plan.value_ms,
    )


def _links(problem: Problem) -> topology.LinkMatrix:
    """The problem's links; over a missing one the shortest detour, at the least rate there is."""
    names = [*(node.name for node in problem.nodes), CALLER]
    order = sorted(range(len(names)), key=names.__getitem__)
    both = np.ix_(order, order)
    rtt_ms: Floats = (1e3 * (problem.delay_s + problem.delay_s.T))[both]
    np.fill_diagonal(rtt_ms, 0.0)
    if np.isinf(rtt_ms).any():
        for way in range(len(order)):
            np.minimum(rtt_ms, rtt_ms[:, way, None] + rtt_ms[None, way, :], out=rtt_ms)
    rates: Floats = problem.bytes_per_s[both].copy()
    rates[rates == 0] = rates[rates > 0].min(initial=inf)
    np.fill_diagonal(rates, inf)
    sure, known = np.ones_like(rtt_ms), np.ones(rtt_ms.shape, dtype=bool)
    nil = np.zeros_like(rtt_ms)
    names = tuple(names[place] for place in order)
    return topology.LinkMatrix(names, rtt_ms, sure, known, nil, rates, sure, known, 0.0, 0.0)


def _laid_out(places_ms: Floats, radii: Floats) -> Floats:
    """In the panel, each disc free of the others as far as there is room."""
    room = np.array([WIDTH, HEIGHT]) / 2 - MARGIN
    n = len(places_ms)
    far = FAR_SHARE if n > NAMED_MAX else 0.0
    least, most = np.quantile(places_ms, [far, 1 - far], axis=0)
    inch_ms = float(((most - least) / 2 / room).max())
    places: Floats = (places_ms - (least + most) / 2) / (inch_ms or 1.0)
    # Where many lie on one point, each starts in a direction of its own.
    turns = GOLDEN * np.arange(n)
    places = places + 1e-3 * np.column_stack([np.cos(turns), np.sin(turns)])
    apart = radii[:, None] + radii + min(0.5, 0.6 * float(radii.mean()) + 4.0 / n**1.5)
    np.fill_diagonal(apart, 0.0)
    for _ in range(ROUNDS):
        right, up = (axis[:, None] - axis for axis in places.T)
        lengths = np.hypot(right, up)
        short = np.maximum(apart - lengths, 0.0)
        if short.max() < TOUCHING:
            break
        # Half the way by each of a pair; among many, less, or all are thrown to the walls.
        crowd = np.maximum(1.0, (short > 0).sum(axis=1) / CROWD)
        push = 0.5 * short / np.maximum(lengths, 1e-9) / crowd[:, None]
        moved = np.column_stack([(push * right).sum(axis=1), (push * up).sum(axis=1)])
        places = np.clip(places + moved, -room, room)
    return places + np.array([WIDTH, HEIGHT]) / 2


def _inch_ms(places: Floats, rtt_ms: Floats) -> float:
    """The round trip that an inch stands for; 0 where two dimensions cannot show it."""
    pairs = np.triu_indices(len(places), 1)
    inches = np.linalg.norm(places[:, None] - places, axis=-1)[pairs]
    each: Floats = rtt_ms[pairs] / np.maximum(inches, 1e-9)
    usual = float(np.median(each))
    missed = float(np.median(np.abs(each - usual)))
    return usual if missed <= MISSED_MAX * usual else 0.0


def _stages(problem: Problem, plan: Plan) -> tuple[tuple[Part, ...], ...]:
    """What each stage does in a step; for latency, when it does it on one token's way."""
    index = {node.name: place for place, node in enumerate(problem.nodes)}
    shares = [Share(index[share.node], share.start, share.stop) for share in plan.assignment]
    done = evaluate(problem, shares)
    ends = [len(index), *(share.node for share in shares), len(index)]
    delays_s = [float(problem.delay_s[link]) for link in pairwise(ends)]
    here_s = zip(done.in_s, done.work_s, done.overflow_s, done.out_s, strict=True)
    if plan.objective != "latency":
        kinds: tuple[Kind, ...] = ("transfer", "work", "streaming", "transfer")
        return tuple(_parts(kinds, times_s, 0.0) for times_s in here_s)
    stages: list[tuple[Part, ...]] = []
    now_ms = 0.0
    kinds = ("way", "transfer", "work", "streaming")
    back_s = (done.out_s[-1], 0.0, 0.0, 0.0)
    for delay_s, times_s in zip(delays_s, [*here_s, back_s], strict=True):
        stages.append(_parts(kinds, (delay_s, *times_s[:3]), now_ms))
        now_ms = stages[-1][-1].start_ms + stages[-1][-1].ms
    return tuple(stages)


def _parts(
    kinds: tuple[Kind, ...], times_s: tuple[float, ...], start_ms: float
) -> tuple[Part, ...]:
    """One after the other from this moment on."""
    parts: list[Part] = []
    for kind, time_s in zip(kinds, times_s, strict=True):
        parts.append(Part(kind, start_ms, 1e3 * time_s))
        start_ms += 1e3 * time_s
    return tuple(parts)


def hull(points: Floats) -> Floats:
    """The corners of the least convex shape around the points (Andrew's monotone chain)."""
    ordered = sorted({(float(x), float(y)) for x, y in points})
    corners: list[tuple[float, float]] = []
    for way in (ordered, ordered[::-1]):
        side: list[tuple[float, float]] = []
        for x, y in way:
            while len(side) > 1 and _turn(side[-2], side[-1], (x, y)) <= 0:
                side.pop()
            side.append((x, y))
        corners += side[:-1] or side
    return np.array(corners)


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def bent(start: Floats, stop: Floats) -> Floats:
    """The corner of the curve from one to the other, as matplotlib's `arc3` bends it."""
    (x, y), (way_x, way_y) = (start + stop) / 2, stop - start
    return np.array([x + BEND * way_y, y - BEND * way_x])


def arrows(seen: Sketch) -> Floats:
    """Points along the chain's arrows."""
    ends = seen.places[[seen.caller, *seen.chain, seen.caller]]
    part = np.linspace(0, 1, ARROW_POINTS)[:, None]
    return np.concatenate(
        [
            (1 - part) ** 2 * start + 2 * part * (1 - part) * bent(start, stop) + part**2 * stop
            for start, stop in pairwise(ends)
        ]
    )


def label_places(
    anchors: Sequence[tuple[float, float, float]],
    sizes: Sequence[tuple[float, float]],
    discs: Sequence[Box],
    lines: Floats,
) -> list[Box | None]:
    """Where labels of these half sizes go around anchors (x, y, radius), first come first served.

    Each is near and hides few points of the lines, and never a disc or another label; None where
    there is no such place.
    """
    taken: list[Box] = list(discs)
    found: list[Box | None] = []
    for (x, y, radius), (half_width, half_height) in zip(anchors, sizes, strict=True):
        best: Box | None = None
        least = inf
        for step, turn in product(LABEL_STEPS, range(LABEL_TURNS)):
            if step >= least:
                break
            way = pi / 2 + 2 * pi * turn / LABEL_TURNS
            box = Box(
                x + cos(way) * (radius + step + half_width),
                y + sin(way) * (radius + step + half_height),
                half_width,
                half_height,
            )
            cost = step + HIDDEN * _hidden(box, lines)
            if cost < least and _inside(box) and not any(box.covers(other) for other in taken):
                best, least = box, cost
        if best is not None:
            taken.append(best)
        found.append(best)
    return found


def _hidden(box: Box, points: Floats) -> int:
    sizes = (box.half_width, box.half_height)
    return int((np.abs(points - box[:2]) < sizes).all(axis=1).sum())


def _inside(box: Box) -> bool:
    wide, high = WIDTH / 2 - box.half_width, HEIGHT / 2 - box.half_height
    return abs(box.x - WIDTH / 2) <= wide and abs(box.y - HEIGHT / 2) <= high
