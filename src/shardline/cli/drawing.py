"""A plan as one quiet page: the network with the chain, its persistence, and the stages' times.

Drawn with matplotlib, the extra `draw`, which is imported only here and only when a person asks.
The same plan gives the same bytes, whatever that person's own settings of matplotlib are.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from shardline.cli.nodes_file import CALLER
from shardline.core.errors import BadInput

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from shardline.cli.sketch import Part, Sketch
    from shardline.partition import Plan, Problem

    Axes = Any
    """matplotlib's: its annotations leave too much open for a strict checker."""
    Bars = NDArray[np.float64]

__all__ = ["check_drawing", "draw"]

SUFFIXES = (".svg", ".png")
PAGE = (10.0, 8.0)
DPI = 150
INK, QUIET, PALE = "#222222", "#8a8a8a", "#d9d9d9"
CLUSTERS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#b5a800")
"""After Okabe and Ito, so that all can tell them apart; further clusters are grey."""
SLOW = "#d55e00"
KINDS = {"way": "#e6ddcc", "transfer": "#b8c4d0", "work": "#5b6b7b", "streaming": "#e6b860"}
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "shardline",
    "text.parse_math": False,
    "font.size": 7.5,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 7,
}
LEVEL_STAGES = 9
"""Of more stages the names stand upright."""
RING = 0.035
LEADER = 0.12
"""A name farther from its disc, in inches, has a line to it."""
LABEL_EM = 0.6
"""A letter's width, at most, in its height."""


def check_drawing(path: Path) -> None:
    """Raise BadInput, before any work, for a file that could not be drawn."""
    if path.suffix.lower() not in SUFFIXES:
        raise BadInput(f"--draw wants a file that ends in .svg or .png, not {path.name!r}")
    if not path.parent.is_dir():
        raise BadInput(f"{path} cannot be written: there is no folder {path.parent}")
    if importlib.util.find_spec("matplotlib") is None:
        raise BadInput("--draw needs matplotlib, not installed: pip install 'shardline[draw]'")


def draw(path: Path, problem: Problem, plan: Plan, title: str) -> None:
    """Write the drawing, over whatever is there; raises BadInput if it cannot be written."""
    data = _drawn(problem, plan, title, path.suffix.lower()[1:])
    try:
        path.write_bytes(data)
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}") from None


def _drawn(problem: Problem, plan: Plan, title: str, kind: str) -> bytes:
    from matplotlib import style
    from matplotlib.figure import Figure

    from shardline.cli.sketch import sketch

    seen = sketch(problem, plan)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    page = BytesIO()
    with style.context(["default", STYLE], after_reset=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name's letters: boxes in a PNG
        figure: Any = Figure(figsize=PAGE, dpi=DPI, facecolor="white")
        figure.text(0.02, 0.965, title, fontsize=10)
        _network(figure.add_axes((0.02, 0.3275, 0.66, 0.5875)), seen, plan)
        shape = seen.shape
        rtt, transfer = (figure.add_axes((0.75, y, 0.22, 0.22)) for y in (0.695, 0.385))
        _persistence(rtt, shape.rtt.h0, shape.rtt.h1, "Round trips", "ms")
        _persistence(transfer, shape.transfer.h0, shape.transfer.h1, "Transfers", "ms a MiB")
        _stages(figure.add_axes((0.06, 0.10, 0.91, 0.185)), seen, plan)
        about = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(page, format=kind, metadata=about)
    return page.getvalue()


def _network(axes: Axes, seen: Sketch, plan: Plan) -> None:
    """Nodes by round trip, clusters, and the chain from the caller through all stages and back."""
    from shardline.cli.sketch import HEIGHT, WIDTH

    axes.set_xlim(0, WIDTH)
    axes.set_ylim(0, HEIGHT)
    axes.set_aspect("equal")
    axes.axis("off")
    groups = seen.shape.clusters.groups
    count = f", {len(groups)} clusters" if len(groups) > 1 else ""
    axes.set_title(f"Network: {len(seen.places) - 1} nodes{count}")
    _clusters(axes, seen)
    _chain(axes, seen)
    _discs(axes, seen)
    _names(axes, seen, plan)
    _scale(axes, seen)


def _colour(cluster: int) -> str:
    return CLUSTERS[cluster] if cluster < len(CLUSTERS) else QUIET


def _clusters(axes: Axes, seen: Sketch) -> None:
    from matplotlib.patches import Polygon

    from shardline.cli.sketch import hull

    cluster = np.array(seen.cluster)
    if cluster.max() == 0:
        return
    for at in range(min(int(cluster.max()) + 1, len(CLUSTERS))):
        ours = cluster == at
        wide_pt = 72 * 2 * (float(seen.radii[ours].max()) + 0.08)
        if ours.sum() > 1:
            axes.add_patch(
                Polygon(
                    hull(seen.places[ours]),
                    facecolor=_tint(_colour(at)),
                    edgecolor=_tint(_colour(at)),
                    linewidth=wide_pt,
                    joinstyle="round",
                    zorder=0,
                )
            )


def _tint(colour: str) -> tuple[float, ...]:
    from matplotlib.colors import to_rgb

    return tuple(0.88 + 0.12 * part for part in to_rgb(colour))


def _chain(axes: Axes, seen: Sketch) -> None:
    from matplotlib.patches import FancyArrowPatch

    from shardline.cli.sketch import BEND

    ends = [seen.caller, *seen.chain, seen.caller]
    many = len(ends) > LEVEL_STAGES
    for start, stop in pairwise(ends):
        (x, y), (to_x, to_y) = seen.places[start], seen.places[stop]
        axes.add_patch(
            FancyArrowPatch(
                (float(x), float(y)),
                (float(to_x), float(to_y)),
                arrowstyle="-|>",
                mutation_scale=6 if many else 9,
                connectionstyle=f"arc3,rad={BEND}",
                shrinkA=72 * float(seen.radii[start]),
                shrinkB=72 * float(seen.radii[stop]) + 1,
                linewidth=0.6 if many else 1.0,
                color=INK,
                alpha=0.6 if many else 1.0,
                zorder=3.5,
            )
        )


def _discs(axes: Axes, seen: Sketch) -> None:
    """Full for those of the chain, hollow for the others; the slowest has a ring."""
    x, y = seen.places.T
    areas = (144 * seen.radii) ** 2
    colours = np.array([_colour(cluster) for cluster in seen.cluster])
    caller = np.arange(len(x)) == seen.caller
    chain = np.isin(np.arange(len(x)), seen.chain)
    idle = ~chain & ~caller
    pale = 1.0 if seen.named else 0.45
    axes.scatter(x[idle], y[idle], areas[idle], "white", edgecolors=colours[idle].tolist(),
                 linewidths=0.8, alpha=pale, zorder=3)  # fmt: skip
    axes.scatter(x[chain], y[chain], areas[chain], colours[chain], linewidths=0, zorder=4)
    axes.scatter(x[caller], y[caller], areas[caller], INK, marker="s", zorder=4)
    slow = seen.chain[seen.slowest]
    ring = (144 * (seen.radii[slow] + RING)) ** 2
    axes.scatter(x[slow], y[slow], ring, "none", edgecolors=SLOW, linewidths=1.8, zorder=4)


def _names(axes: Axes, seen: Sketch, plan: Plan) -> None:
    """The chain's names with their blocks first, then the others' while there are few."""
    from shardline.cli.sketch import Box, arrows, label_places

    texts = {seen.caller: CALLER}
    for at, share in zip(seen.chain, plan.assignment, strict=True):
        texts[at] = f"{share.node}  {share.start}:{share.stop}"
    if seen.named:
        texts = texts | {at: name for at, name in enumerate(seen.shape.nodes) if at not in texts}
    size_pt = 7.0 if seen.named else 6.0
    high = size_pt / 72
    sizes = [(LABEL_EM * high * len(text) / 2, 0.62 * high) for text in texts.values()]
    (right, up), radii = seen.places.T.tolist(), seen.radii.tolist()
    radii[seen.chain[seen.slowest]] += 2 * RING
    anchors = [(right[at], up[at], radii[at]) for at in texts]
    kept = range(len(seen.places)) if seen.named else texts
    discs = [Box(right[at], up[at], radii[at], radii[at]) for at in kept]
    boxes = label_places(anchors, sizes, discs, arrows(seen))
    for (at, text), box, (x, y, radius) in zip(texts.items(), boxes, anchors, strict=True):
        if box is None:
            continue
        ours = at in seen.chain or at == seen.caller
        colour = SLOW if at == seen.chain[seen.slowest] else INK if ours else QUIET
        axes.text(
            box.x, box.y, text, fontsize=size_pt, color=colour, ha="center", va="center", zorder=5,
            bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.3},
        )  # fmt: skip
        gap = float(np.hypot(max(0.0, abs(box.x - x) - box.half_width), box.y - y)) - radius
        if gap > LEADER:
            axes.plot([x, box.x], [y, box.y], color=QUIET, linewidth=0.4, zorder=4.5)


def _scale(axes: Axes, seen: Sketch) -> None:
    """How long a round trip is on paper, and what a disc says."""
    parts = ["full: in the chain", "size: memory", "ring: slowest stage"]
    parts += [] if seen.named else ["at the edge: or farther"]
    if seen.inch_ms:
        power = 10.0 ** np.floor(np.log10(1.5 * seen.inch_ms))
        round_ms = max(step * power for step in (1, 2, 5) if step * power <= 1.5 * seen.inch_ms)
        length = round_ms / seen.inch_ms
        axes.plot([0.1, 0.1 + length], [0.06, 0.06], color=INK, linewidth=1.0)
        axes.text(0.15 + length, 0.06, f"{round_ms:g} ms round trip", va="center", fontsize=7)
    else:
        parts.insert(0, "near: a short round trip")
    axes.text(6.5, 0.06, " · ".join(parts), ha="right", va="center", fontsize=7, color=QUIET)


def _persistence(axes: Axes, h0: Bars, h1: Bars, title: str, unit: str) -> None:
    """Parts that join (H0) and rings (H1): the farther from the diagonal, the more they count."""
    most = max([float(part[:, 1].max()) for part in (h0, h1) if len(part)], default=0.0)
    axes.set_title(f"{title}: persistence")
    if not most:
        axes.axis("off")
        axes.text(0.0, 0.9, "no limit is given", color=QUIET, transform=axes.transAxes)
        return
    top = 1.08 * most
    axes.plot([0, top], [0, top], color=PALE, linewidth=0.8, zorder=1)
    axes.plot(h0[:, 0], h0[:, 1], "o", color=INK, markersize=3.2, alpha=0.6, mew=0, label="parts",
              clip_on=False)  # fmt: skip
    if len(h1):
        axes.plot(h1[:, 0], h1[:, 1], "^", color=CLUSTERS[0], markersize=4, fillstyle="none",
                  mew=0.9, label="rings")  # fmt: skip
    axes.set_xlim(0, top)
    axes.set_ylim(0, top)
    axes.set_xlabel(f"from, {unit}")
    axes.set_ylabel(f"to, {unit}")
    axes.locator_params(nbins=4)
    axes.legend(loc="lower right", handletextpad=0.2, borderaxespad=0.2)


def _stages(axes: Axes, seen: Sketch, plan: Plan) -> None:
    """What each stage does in a step, beside the slowest and the least that any plan needs."""
    for at, parts in enumerate(seen.stages):
        _column(axes, at, parts)
    names = [f"{share.node} {share.start}:{share.stop}" for share in plan.assignment]
    names += ["back"] * (len(seen.stages) - len(names))
    upright = len(names) > LEVEL_STAGES
    axes.set_xticks(range(len(names)), names, rotation=90 if upright else 0)
    axes.tick_params(axis="x", length=0, labelsize=max(4.5, min(7.0, 420 / len(names))))
    axes.get_xticklabels()[seen.slowest].set_color(SLOW)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylabel("ms")
    latency = plan.objective == "latency"
    axes.set_title("One token's way" if latency else "Stages: what occupies each in a step")
    axes.set_ylim(0, 1.12 * seen.total_ms)
    axes.axhline(seen.total_ms, color=SLOW, linewidth=0.9, zorder=1)
    axes.axhline(plan.lower_bound_ms, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=3)
    _legend(axes, seen, plan)


def _column(axes: Axes, at: int, parts: tuple[Part, ...]) -> None:
    for part in parts:
        axes.bar(at, part.ms, 0.7, part.start_ms, color=KINDS[part.kind], zorder=2)


def _legend(axes: Axes, seen: Sketch, plan: Plan) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    there = {part.kind for stage in seen.stages for part in stage if part.ms}
    handles: list[Any] = [Patch(color=KINDS[kind], label=kind) for kind in KINDS if kind in there]
    what = "whole way" if plan.objective == "latency" else "slowest stage"
    handles += [
        Line2D([], [], color=SLOW, linewidth=0.9, label=f"{what} {seen.total_ms:.3g} ms"),
        Line2D([], [], color=INK, linewidth=0.8, linestyle=(0, (4, 3)),
               label=f"any plan needs {plan.lower_bound_ms:.3g} ms"),
    ]  # fmt: skip
    axes.legend(handles=handles, ncols=len(handles), loc="lower right", bbox_to_anchor=(1.0, 1.0))
