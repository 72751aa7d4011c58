"""`shardline inspect`: which route a model takes, and how it would be cut in N stages.

Of a model only its config is read; of a person's own module, what FILE.py:FACTORY gives.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table
from rich.text import Text

from shardline.cli.drawing import check_drawing
from shardline.cli.inspect_factory import call_factory, names_factory
from shardline.cli.options import json_option
from shardline.cli.progress import Progress
from shardline.cli.tables import table_console
from shardline.core.errors import NoChain, Unsupported
from shardline.core.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardline.cli.inspect_report import Report, Stage

__all__ = ["inspect"]

NODES = 3
NODES_MAX = 1_024


@click.command()
@click.argument("model", metavar="MODEL|FILE.py:FACTORY")
@click.option(
    "--nodes",
    type=click.IntRange(1, NODES_MAX),
    default=NODES,
    show_default=True,
    metavar="N",
    help="Into how many stages it is cut.",
)
@click.option(
    "--draw",
    "drawing",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw the stages and what crosses too; FILE ends in .svg or .png.",
)
@json_option
def inspect(*, model: str, nodes: int, drawing: Path | None, as_json: bool) -> None:
    """Say which route MODEL takes, chain or graph, and how it would be cut.

    Reads MODEL's config only; no weights, and hardly any memory, whatever its size.

    A module of your own: FACTORY is a function in FILE.py without arguments, which returns
    (module, args) or (module, args, kwargs). FILE.py is run, as you named it.
    """
    if drawing:
        check_drawing(drawing)
    try:
        with (
            Progress("reading the model", wanted=not as_json) as progress,
            contextlib.redirect_stdout(sys.stderr),  # what a person's module may print
        ):
            report = _report(model, nodes, progress)
    except (NoChain, Unsupported) as error:
        if as_json:
            none = {"model": model, "route": "none", "why": str(error)}
            click.echo(json.dumps(none | {"blocks": [], "boundaries": []}))
        raise
    if drawing:
        from shardline.cli.inspect_drawing import draw_report

        draw_report(drawing, report)
    if as_json:
        click.echo(json.dumps(report.to_json(), allow_nan=False))
    else:
        _show(report)


def _report(model: str, nodes: int, progress: Progress) -> Report:
    """The chain if there is one, or else the graph; torch is imported here, past all arguments."""
    from shardline.cli.inspect_report import chain_report, graph_report
    from shardline.model import build_on_shapes, capture, example_inputs, resolve, trace

    if names_factory(model):
        made = call_factory(model)
        progress.say("capturing")
        graph = capture(made.module, made.args, made.kwargs)
        return graph_report(model, graph, nodes, "")
    folder = resolve(model)
    try:
        return chain_report(folder.name, trace(folder), nodes)
    except NoChain as error:
        why = str(error).rpartition(": ")[0]  # what serves it instead follows here
    module = build_on_shapes(folder)
    inputs = example_inputs(module)
    progress.say("capturing")
    return graph_report(folder.name, capture(module, (), inputs), nodes, why)


def _show(report: Report) -> None:
    """One calm table, then what there is to know beside it."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    chain = report.route == "chain"
    table.add_column("stage")
    table.add_column("blocks" if chain else "ops", justify="left" if chain else "right")
    table.add_column("parts")
    for column in ("parameters", "weights", "work", "in", "out"):
        table.add_column(column, justify="right")
    for place, stage in enumerate(report.stages, 1):
        table.add_row(*map(Text, _row(place, stage)))
    console = table_console()
    console.print(table)
    for line in report.lines:
        console.print(Text(line), soft_wrap=True)


def _row(place: int, stage: Stage) -> Iterator[str]:
    yield str(place)
    yield stage.blocks or str(stage.ops)
    yield stage.first if stage.first == stage.last else f"{stage.first} to {stage.last}"
    yield f"{stage.parameters:,}"
    yield format_bytes(stage.parameter_bytes)
    yield f"{stage.work:.0%}"
    yield format_bytes(stage.in_bytes)
    yield format_bytes(stage.out_bytes)
