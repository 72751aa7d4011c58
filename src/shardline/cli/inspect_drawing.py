"""How a model would be cut, as one quiet page: the stages, and what would cross a cut anywhere.

Drawn with matplotlib, the extra `draw`, and in the manner of a plan's drawing.
"""

from __future__ import annotations

import logging
import warnings
from io import BytesIO
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from shardline.cli.drawing import CLUSTERS, DPI, INK, PALE, SLOW, STYLE
from shardline.core.errors import BadInput
from shardline.core.units import format_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from shardline.cli.inspect_report import Report

    Axes = Any
    """matplotlib's: its annotations leave too much open for a strict checker."""

__all__ = ["draw_report"]

PAGE = (10.0, 5.0)
NAMED_MAX = 6
"""Of more stages, boxes hold their numbers only."""
NAME_MAX = 32
"""Letters of a part's name that fit a box."""
GAP = 0.35
"""Between two boxes, in a box's width."""


def draw_report(path: Path, report: Report) -> None:
    """Write the drawing, over whatever is there; raises BadInput if it cannot be written."""
    data = _drawn(report, path.suffix.lower()[1:])
    try:
        path.write_bytes(data)
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}") from None


def _drawn(report: Report, kind: str) -> bytes:
    from matplotlib import style
    from matplotlib.figure import Figure

    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    page = BytesIO()
    with style.context(["default", STYLE], after_reset=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name's letters: boxes in a PNG
        figure: Any = Figure(figsize=PAGE, dpi=DPI, facecolor="white")
        figure.text(0.02, 0.94, _title(report), fontsize=10)
        _boxes(figure.add_axes((0.02, 0.60, 0.96, 0.26)), report)
        _curve(figure.add_axes((0.08, 0.11, 0.89, 0.36)), report)
        about = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(page, format=kind, metadata=about)
    return page.getvalue()


def _title(report: Report) -> str:
    count = len(report.stages)
    text = (
        f"{report.model}: {report.architecture} by the {report.route} route, {count} "
        f"stage{'s' if count > 1 else ''}, {report.parameters:,} parameters"
    )
    return "".join(letter for letter in text if letter.isprintable())


def _colour(stage: int) -> str:
    return CLUSTERS[stage % len(CLUSTERS)]


def _boxes(axes: Axes, report: Report) -> None:
    """The stages from the caller on, with what goes over each boundary."""
    from matplotlib.patches import FancyBboxPatch

    stages = report.stages
    few = len(stages) <= NAMED_MAX
    axes.set_xlim(-GAP, len(stages) * (1 + GAP))
    axes.set_ylim(0, 1)
    axes.axis("off")
    for at, stage in enumerate(stages):
        left = at * (1 + GAP)
        axes.add_patch(
            FancyBboxPatch((left, 0.1), 1, 0.8, boxstyle="round,pad=0,rounding_size=0.04",
                           facecolor=_colour(at), alpha=0.18, linewidth=0)
        )  # fmt: skip
        lines = [f"{at + 1}"]
        if few:
            held = f"blocks {stage.blocks}" if stage.blocks else f"{stage.ops} ops"
            lines = [f"{at + 1}: {held}", f"{stage.parameters:,} parameters"]
            lines += [f"{stage.work:.0%} of the work", _short(stage.first), _short(stage.last)]
        axes.text(left + 0.5, 0.5, "\n".join(lines), ha="center", va="center", fontsize=7)
    for at in range(len(stages) + 1):
        _arrow(axes, at, _crossing(report, at) if few else "")


def _short(name: str) -> str:
    return name if len(name) <= NAME_MAX else f"…{name[1 - NAME_MAX :]}"


def _arrow(axes: Axes, at: int, text: str) -> None:
    start, stop = at * (1 + GAP) - GAP, at * (1 + GAP)
    ink = {"arrowstyle": "-|>", "color": INK, "linewidth": 0.9, "shrinkA": 2, "shrinkB": 2}
    axes.annotate("", (stop, 0.5), (start, 0.5), arrowprops=ink)
    axes.text((start + stop) / 2, 0.62, text, ha="center", fontsize=6.5, color=INK)


def _crossing(report: Report, at: int) -> str:
    """What goes over the boundary before this stage, or back to the caller after the last."""
    if at == 0:
        return format_bytes(report.stages[0].in_bytes)
    if at == len(report.stages):
        return format_bytes(report.stages[-1].out_bytes)
    return format_bytes(report.boundaries[at - 1].bytes)


def _curve(axes: Axes, report: Report) -> None:
    """Bytes that would cross a cut, all along the work; cheap cuts are its dips."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    points = [point for point in report.bytes_by_work if point[1]]  # none is alive at the end
    shares, sizes = [100 * share for share, _ in points], [size for _, size in points]
    cuts = [0.0, *accumulate(100 * stage.work for stage in report.stages)]
    for at, (start, stop) in enumerate(pairwise(cuts)):
        axes.axvspan(start, stop, color=_colour(at), alpha=0.10, linewidth=0)
    axes.step(shares, sizes, where="post", color=INK, linewidth=0.9)
    for cut, boundary in zip(cuts[1:], report.boundaries, strict=False):
        axes.axvline(cut, color=SLOW, linewidth=0.9)
        axes.plot([cut], [boundary.bytes], "o", color=SLOW, markersize=4, mew=0)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_locator(LogLocator(base=2, numticks=6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_bytes))
    axes.set_ylim(min(sizes) / 2, 2 * max(sizes))
    axes.set_xlim(0, 100)
    axes.grid(axis="y", color=PALE, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_xlabel("work done, %")
    axes.set_title(f"What would cross a cut, for {report.per}", color=INK)


def _bytes(size: float, _place: int | None) -> str:
    return format_bytes(size)
