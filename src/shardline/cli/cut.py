"""`shardline cut`: a module in stages, in a folder to carry to the machines that serve them."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table
from rich.text import Text

from shardline.cli.inspect_factory import call_factory, names_factory
from shardline.cli.options import json_option
from shardline.cli.progress import Progress
from shardline.cli.tables import table_console
from shardline.core.errors import BadInput
from shardline.core.units import format_bytes

if TYPE_CHECKING:
    from shardline.model import GraphPlan

__all__ = ["cut"]

STAGES_MAX = 1_024


@click.command()
@click.argument("target", metavar="FILE.py:FACTORY|MODEL")
@click.option(
    "--stages", type=click.IntRange(1, STAGES_MAX), default=3, show_default=True, metavar="N"
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Where to write it.",
)
@json_option
def cut(*, target: str, stages: int, out: Path, as_json: bool) -> None:
    """Cut a module into stages and write them to DIR, for machines to serve.

    FACTORY is a function in FILE.py without arguments, which returns (module, args) or (module,
    args, kwargs). A node needs none of the module's code: DIR/graph.json and the folders of its
    own stages; whoever calls it needs DIR/graph.json and DIR/signature.json.
    """
    _check_folder(out)
    with (
        Progress("reading the module", wanted=not as_json),
        contextlib.redirect_stdout(sys.stderr),  # what a person's module may print
    ):
        from shardline.cli.graphs import copy_companions, cut_module, read_model

        if names_factory(target):
            made = call_factory(target)
            plan = cut_module(made.module, made.args, made.kwargs, stages, out)
        else:
            module, inputs = read_model(target)
            plan = cut_module(module, (), inputs, stages, out)
            copy_companions(target, out)
    if as_json:
        click.echo(json.dumps(_report(plan)))
    else:
        _show(plan)


def _check_folder(out: Path) -> None:
    """Only a new folder is written to, or one that a cut graph is in: it is overwritten."""
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file: give a folder to write to")
    if out.is_dir() and any(out.iterdir()) and not (out / "graph.json").is_file():
        raise BadInput(f"{out} has other files in it: give a new folder")


def _report(plan: GraphPlan) -> dict[str, object]:
    total_s = sum(stage.work_s for stage in plan.stages) or 1.0
    return {
        "model": plan.name,
        "fingerprint": plan.fingerprint,
        "folder": str(plan.folder),
        "stages": [
            {
                "parameter_bytes": stage.parameter_bytes,
                "work": stage.work_s / total_s,
                "inputs": list(stage.inputs),
                "outputs": list(stage.outputs),
            }
            for stage in plan.stages
        ],
        "rows": dict(plan.signature().rows),
    }


def _show(plan: GraphPlan) -> None:
    """A row for each stage, then what to type next."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("stage", justify="right")
    for column in ("weights", "work", "values in", "values out"):
        table.add_column(column, justify="right")
    total_s = sum(stage.work_s for stage in plan.stages) or 1.0
    for at, stage in enumerate(plan.stages):
        share = f"{stage.work_s / total_s:.0%}"
        row = (f"{at}:{at + 1}", format_bytes(stage.parameter_bytes), share)
        counts = (str(len(stage.inputs)), str(len(stage.outputs)))
        table.add_row(*map(Text, (*row, *counts)))
    console = table_console()
    console.print(table)
    apart = plan.signature().rows
    lines = [
        f"{plan.name} in {plan.folder}; next, one on each machine:",
        f"  shardline serve {plan.folder} --blocks 0:1",
    ]
    if plan.blocks > 1:
        last = f", and so on to {plan.blocks - 1}:{plan.blocks}" if plan.blocks > 2 else ""  # noqa: PLR2004
        lines.append(f"  shardline serve {plan.folder} --blocks 1:2 --join INVITE{last}")
    lines.append(f"  shardline run {plan.folder} --inputs x.npz --invite INVITE")
    if not apart:
        lines.append("the rows of a batch are not treated apart: each call is run whole")
    for line in lines:
        console.print(Text(line), soft_wrap=True)
