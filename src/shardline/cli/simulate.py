"""`shardline simulate swarm`: how the swarm's own code does with many nodes, in virtual time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
import msgspec
from rich.console import Console
from rich.table import Table

from shardline.cli.options import json_option

if TYPE_CHECKING:
    from shardline.simulation import Report, Tuned

__all__ = ["simulate"]


@click.group()
def simulate() -> None:
    """Try things out in virtual time, with no network and no model."""


@simulate.command()
@click.option("--nodes", default=1_000, show_default=True, help="Machines that come and go.")
@click.option("--hours", default=24.0, show_default=True, help="Simulated time.")
@click.option("--seed", default=0, show_default=True, help="Equal seeds give equal runs.")
@click.option("--blocks", default=80, show_default=True, help="Of the model that they serve.")
@click.option("--up-hours", default=24.0, show_default=True, help="Mean time a machine stays on.")
@click.option("--loss", default=0.005, show_default=True, help="Share of messages sent again.")
@click.option("--cuts-per-day", default=2.0, show_default=True, help="Partitions of the network.")
@json_option
def swarm(*, as_json: bool, **chosen: float) -> None:
    """Churn, crashes, pauses, cuts and loss around the real discovery, routing and rebalancing."""
    from shardline.simulation import Settings
    from shardline.simulation import simulate as run

    report = run(Settings(**chosen))  # pyright: ignore[reportArgumentType]
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(report)))
    else:
        _show(report)


@simulate.command()
@click.option("--nodes", default=16, show_default=True, help="Of the swarm to tune for.")
@click.option("--minutes", default=2.0, show_default=True, help="Simulated time of each run.")
@click.option("--seed", default=0, show_default=True, help="Equal seeds give equal answers.")
@click.option("--generations", default=4, show_default=True, help="Of 19 sets of weights each.")
@json_option
def tune(*, nodes: int, minutes: float, seed: int, generations: int, as_json: bool) -> None:
    """Look for better weights for routing, and compare them with today's on other seeds."""
    from shardline.simulation import Traffic
    from shardline.simulation import tune as run

    tuned = run(Traffic(nodes=nodes, minutes=minutes, seed=seed), generations)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(tuned)))
    else:
        _show_tuned(tuned)


def _show_tuned(tuned: Tuned) -> None:
    """Weights, then what they bring."""
    weights = Table("weight", "today", "bred", box=None, pad_edge=False)
    for name, value in tuned.weights.items():
        weights.add_row(name, f"{tuned.defaults[name]:g}", f"{value:g}")
    gains = Table(
        "on", "step, 95%", "replayed or lost", "cost saved (95%)", box=None, pad_edge=False
    )
    for one in (tuned.bred_on, *tuned.held_out):
        gains.add_row(
            f"{one.seeds} {one.what}" if one is not tuned.bred_on else one.what,
            f"{one.default_p95_ms:.0f} -> {one.p95_ms:.0f} ms",
            f"{one.default_wasted:.1%} -> {one.wasted:.1%}",
            f"{one.gain:.1%} ({one.gain_low:.1%} to {one.gain_high:.1%})",
        )
    console = Console()
    console.print(weights)
    console.print(gains)
    verdict = (
        "a sure gain in simulation: look at its cause before taking it"
        if tuned.sure_gain
        else "no sure gain: keep today's"
    )
    console.print(f"{verdict}; {tuned.runs} runs, {tuned.seconds:.0f} s")


def _show(report: Report) -> None:
    """One calm table."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    rows = {
        "swarm": f"{report.nodes} nodes, {report.blocks} blocks, {report.hours:g} h",
        "came and went": f"{report.joins} joins, {report.deaths} deaths, "
        f"{report.pauses} pauses, {report.cuts} cuts",
        "known to all": f"half within {report.converged_p50_s:.2f} s, 99% within "
        f"{report.converged_p99_s:.2f} s, all within {report.converged_max_s:.2f} s",
        "heard by a node": f"{report.bytes_per_s_per_node / 1000:.1f} kB/s",
        "a block uncovered": f"{report.coverage_lost_s:.1f} s",
        "moves": f"{report.moves}, {report.moves_given_up} given up; the worst block has "
        f"{report.balance:.0%} of the mean throughput",
        "requests": f"{report.served} served ({report.mended} of them mended), "
        f"{report.failed} failed, {report.retried} nodes tried in vain",
        "views agree": "yes" if report.views_agree else "no",
        "replay": f"--seed {report.seed}, trace {report.trace}, {report.seconds:.1f} s",
    }
    for name, text in rows.items():
        table.add_row(name, text)
    Console().print(table)
