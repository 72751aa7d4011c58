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
    from shardline.simulation import Report

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
