"""Table 1: each task by each way of computing, beside the first way, which is the exact one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from shardline.evaluation.measures import Measured

__all__ = ["METHODS", "Row", "Way", "as_json", "compare", "markdown", "table"]

METHODS = " ".join(
    (
        "Intervals are at 95%: Wilson's for shares of right answers, a bootstrap over texts for",
        "perplexity. A change is against the first row of its task, on the same questions: in",
        "points for shares (Bonett and Price's paired interval, McNemar's exact test), in % for",
        "perplexity (a paired bootstrap). p is two-sided, and of one comparison alone; *worse*",
        "stands where a score changed for the bad with p < 0.05. Agreement is of single answers,",
        "right or wrong; for perplexity of the likeliest token at each place.",
    )
)
"""What every report says of its figures."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a model was computed: its nodes' weights, and how hidden states crossed."""

    weights: str
    wire: str

    def __str__(self) -> str:
        return f"{self.weights}, {self.wire} wire"


@dataclass(frozen=True, slots=True)
class Row:
    """One task by one way, beside the first way: of that row itself there is no change."""

    task: str
    weights: str
    wire: str
    score: float
    low: float
    high: float
    n: int
    agreement: float
    percent: bool
    """Whether the score is a share; else it is a perplexity, and lower is better."""
    change: float | None = None
    change_low: float | None = None
    change_high: float | None = None
    p: float | None = None
    worse: bool = False

    @property
    def figure(self) -> str:
        """The score as people read it."""
        return _score(self.score, percent=self.percent)

    @property
    def interval(self) -> str:
        """Where the score may be."""
        low, high = (_score(one, percent=self.percent) for one in (self.low, self.high))
        return f"{low} to {high}"

    @property
    def changed(self) -> str:
        """By how much, and where that may be."""
        if self.change is None or self.change_low is None or self.change_high is None:
            return ""
        by, low, high = (
            f"{100 * c:+.2f}" for c in (self.change, self.change_low, self.change_high)
        )
        return f"{by}{'' if self.percent else '%'} ({low} to {high})"

    @property
    def verdict(self) -> str:
        """The test's result."""
        if self.p is None:
            return ""
        return f"{self.p:.3f}{self.mark}"

    @property
    def mark(self) -> str:
        """What stands behind a figure that is significantly worse."""
        return " worse" if self.worse else ""


def compare(task: str, found: Mapping[Way, Measured]) -> list[Row]:
    """A task's rows, the first way first."""
    (exact, *_) = found.values()
    rows: list[Row] = []
    for way, one in found.items():
        low, high = one.interval()
        rest: dict[str, Any] = {}
        if one is not exact:
            change = one.change(exact)
            rest = {"change": change.by, "change_low": change.low, "change_high": change.high}
            rest |= {"p": change.p, "worse": change.worse}
        rows.append(
            Row(
                task, way.weights, way.wire, one.score, low, high, one.n,
                one.agreement(exact), one.percent, **rest,
            )
        )  # fmt: skip
    return rows


def as_json(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """As machines read them; shares are from 0 to 1, a perplexity's change is relative."""
    return [asdict(row) for row in rows]


HEADS = ("task", "weights", "wire", "score", "95%", "n", "agreement", "change (95%)", "p")


def _cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """One line a row; a task is named once."""
    lines: list[tuple[str, ...]] = []
    before = ""
    for row in rows:
        name = row.task if row.task != before else ""
        figures = (row.figure, row.interval, str(row.n), f"{row.agreement:.1%}")
        lines.append((name, row.weights, row.wire, *figures, row.changed, row.verdict))
        before = row.task
    return lines


def table(rows: Sequence[Row]) -> str:
    """For a terminal."""
    lines = [HEADS, *_cells(rows)]
    wide = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, wide, strict=True)).rstrip()
        for line in lines
    )


def markdown(rows: Sequence[Row]) -> str:
    """As the paper's Table 1, a column a way; then every figure."""
    ways = list(dict.fromkeys(Way(row.weights, row.wire) for row in rows))
    tasks = list(dict.fromkeys(row.task for row in rows))
    by_place = {(row.task, Way(row.weights, row.wire)): row for row in rows}
    wide = [["task", *map(str, ways)], ["---"] * (1 + len(ways))]
    for task in tasks:
        figures = [by_place.get((task, way)) for way in ways]
        wide.append([task, *("" if row is None else row.figure + row.mark for row in figures)])
    long = [list(HEADS), ["---"] * len(HEADS), *map(list, _cells(rows))]
    return "\n\n".join(
        "\n".join(f"| {' | '.join(line)} |" for line in part) for part in (wide, long)
    )


def _score(value: float, *, percent: bool) -> str:
    return f"{value:.1%}" if percent else f"{value:.4f}"
