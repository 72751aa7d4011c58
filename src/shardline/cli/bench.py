"""`shardline bench`: measurements that anyone can repeat."""

from __future__ import annotations

import contextlib
import json
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from shardline.cli.bench_node import chain, node
from shardline.cli.demo import shipped_model
from shardline.cli.options import json_option
from shardline.cli.plan import OBJECTIVES
from shardline.cli.progress import Progress
from shardline.core.errors import BadInput, Unsupported

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from shardline.cli.chaos import Storm

__all__ = ["bench"]

SPANS = 3
REPLICAS = 2
FAULTS_DEFAULT = 20
NODES_MAX, BLOCKS_MAX = 1_024, 1_024


@click.group()
def bench() -> None:
    """Measure, on this machine, what shardline promises."""


bench.add_command(node)
bench.add_command(chain)


@bench.command()
@click.option("--kills", type=click.IntRange(min=1), help="So many faults.  [default: 20]")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="For so long.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--faults",
    "faults_text",
    metavar="F,F,…",
    help="Of kill, freeze, slow, cut, corrupt, full.  [default: kill; with --minutes alone, all]",
)
@json_option
def chaos(
    *, kills: int | None, minutes: float | None, seed: int, faults_text: str | None, as_json: bool
) -> None:
    """Let faults strike nodes while they write, and compare every token with an unbroken run.

    Three spans of the shipped model with two nodes each, as real processes on loopback. slow, cut
    and corrupt need root on Linux: each node gets a network of its own.
    """
    course = _course(kills, minutes, faults_text)
    with Progress("starting nodes", wanted=not as_json) as progress:
        try:
            report = _run(course, seed, progress, quiet=as_json)
        except Unsupported as error:
            if faults_text is not None:
                raise
            click.echo(f"without slow, cut and corrupt: {error}", err=True)
            report = _run(course.without_cables(), seed, progress, quiet=as_json)
    click.echo(json.dumps(report) if as_json else _table(report))


@bench.command()
@click.option("--nodes", type=click.IntRange(1, NODES_MAX), default=32, show_default=True)
@click.option("--blocks", type=click.IntRange(1, BLOCKS_MAX), default=80, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--objective", type=click.Choice(OBJECTIVES), default=OBJECTIVES[0], show_default=True
)
@json_option
def plan(*, nodes: int, blocks: int, seed: int, objective: str, as_json: bool) -> None:
    """Plan made-up networks of six kinds by every method; show gap to the best bound, and time."""
    from shardline.partition import FAMILIES, Plan, compare, make

    rows: list[dict[str, Any]] = []
    with Progress("planning", wanted=not as_json) as progress:
        for family in FAMILIES:
            progress.say(f"planning {family}")
            problem = make(family, nodes, blocks, seed)
            for method, found in compare(problem, objective=objective, seed=seed).items():
                planned = isinstance(found, Plan)
                gap, seconds = (found.gap, found.seconds) if planned else (None, None)
                row = {"family": family, "method": method, "gap": gap, "seconds": seconds}
                rows.append(row if planned else row | {"why_not": str(found)})
    click.echo(json.dumps({"rows": rows}) if as_json else _plans_table(rows))


def _plans_table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'family':14}{'method':10}{'gap':>10}{'seconds':>10}"]
    for row in rows:
        gap = "-" if row["gap"] is None else f"{row['gap']:.1%}"
        seconds = "-" if row["seconds"] is None else f"{row['seconds']:.2f}"
        lines.append(f"{row['family']:14}{row['method']:10}{gap:>10}{seconds:>10}")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Course:
    """Which faults, and how long."""

    faults: Sequence[str]
    count: int | None
    minutes: float | None

    def without_cables(self) -> _Course:
        """The same where nobody may make networks."""
        from shardline.cli.chaos import FAULTS

        uncabled = [name for name in self.faults if not FAULTS[name].cabled]
        return _Course(uncabled, self.count, self.minutes)


def _course(kills: int | None, minutes: float | None, faults_text: str | None) -> _Course:
    from shardline.cli.chaos import FAULTS

    count = kills if kills or minutes else FAULTS_DEFAULT
    if faults_text is None:
        return _Course(list(FAULTS) if count is None else ["kill"], count, minutes)
    faults = [name.strip() for name in faults_text.split(",")]
    for name in faults:
        if name not in FAULTS:
            raise BadInput(f"{name!r} is no fault: write some of {', '.join(FAULTS)}")
    return _Course(faults, count, minutes)


def _run(course: _Course, seed: int, progress: Progress, *, quiet: bool) -> dict[str, Any]:
    """One storm from its first node's start to its report."""
    rng = random.Random(seed)  # noqa: S311  (a seeded experiment)
    with _storm(course, rng) as storm:
        deadline_s = None if course.minutes is None else time.monotonic() + 60 * course.minutes
        done = 0
        while course.count is None or done < course.count:
            if deadline_s is not None and time.monotonic() > deadline_s:
                break
            done += 1
            progress.say(f"fault {done}")
            strike = storm.strike(_draw(rng, course.faults))
            if not quiet:
                progress.hide()
                click.echo(strike.line(done), err=True)
        return storm.report()


def _draw(rng: random.Random, faults: Sequence[str]) -> str:
    return faults[0] if len(faults) == 1 else rng.choice(faults)


@contextlib.contextmanager
def _storm(course: _Course, rng: random.Random) -> Generator[Storm]:
    from shardline.cli.chaos import FAULTS, Storm, glutton
    from shardline.cli.local import local_swarm, unequal_spans
    from shardline.model import trace

    model: Path = shipped_model()
    spans = unequal_spans(trace(model).blocks, SPANS) * REPLICAS
    cabled = any(FAULTS[name].cabled for name in course.faults)
    with contextlib.ExitStack() as stack:
        local = stack.enter_context(local_swarm(model, spans, cabled=cabled))
        guest = None
        if "full" in course.faults:
            guest = stack.enter_context(glutton(local.swarm.invite))
        yield Storm(local, model, rng, guest)


def _table(report: dict[str, Any]) -> str:
    """All in one table: what was seen overall, then a line a fault."""
    by_fault: dict[str, dict[str, Any]] = report["by_fault"]
    lines = [
        f"{name.replace('_', ' '):20} {_figure(value)}"
        for name, value in report.items()
        if name != "by_fault"
    ]
    first, *_ = by_fault.values()
    heads = [name.replace("_", " ") for name in first]
    lines += ["", "  ".join([f"{'fault':8}", *heads])]
    for fault, summary in by_fault.items():
        figures = [
            f"{_figure(value):>{len(head)}}"
            for head, value in zip(heads, summary.values(), strict=True)
        ]
        lines.append("  ".join([f"{fault:8}", *figures]))
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
