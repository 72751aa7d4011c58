"""`shardline plan`: which machine should hold which blocks, and how far from the best that is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shardline.cli.nodes_file import NodesFile
from shardline.cli.options import json_option, model_argument
from shardline.cli.progress import Progress
from shardline.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardline.cli.planning import Change, Sizes
    from shardline.partition import Plan

__all__ = ["METHODS", "OBJECTIVES", "plan"]

METHODS = ("auto", "exact", "search", "brkga", "greedy", "memory", "petals")
"""As in `partition`, whose import would slow down every other command."""
OBJECTIVES = ("throughput", "latency")
TOKENS = 4_096
TOKENS_MAX = 2**30
FILE_BYTES_MAX = 2**24
FILE_COLUMNS = 200
"""How wide the table may be where nobody's terminal sets a limit."""
PROVEN = 1e-6
"""A gap below this is rounding."""


@click.command()
@model_argument
@click.option("--nodes", "nodes_path", required=True, metavar="FILE", help="Machines, in TOML.")
@click.option(
    "--objective",
    type=click.Choice(OBJECTIVES),
    default=OBJECTIVES[0],
    show_default=True,
    help="Tokens a second of many streams, or of one.",
)
@click.option("--method", type=click.Choice(METHODS), default=METHODS[0], show_default=True)
@click.option(
    "--tokens",
    type=click.IntRange(1, TOKENS_MAX),
    default=TOKENS,
    show_default=True,
    metavar="N",
    help="Of cache that each block has room for.",
)
@click.option("--dtype", type=click.Choice(["bfloat16", "float32"]), help="Default: the model's.")
@click.option(
    "--what-if",
    "changes",
    multiple=True,
    metavar="CHANGE",
    help="add=NAME:memory=12GiB,block_ms=1,rtt_ms=5 or remove=NAME; may be given often.",
)
@json_option
def plan(  # noqa: PLR0913  (one argument an option)
    *,
    model: str,
    nodes_path: str,
    objective: str,
    method: str,
    tokens: int,
    dtype: str | None,
    changes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Plan which node holds which blocks of MODEL, and say how far from the best that is.

    \b
    FILE has a table for each machine; links are as their ends say, or as listed:
      [[node]]
      name = "desk"
      memory = "8GiB"
      block_ms = 1.2      # of one block and token; or bandwidth_gbs of memory, gflops
      rtt_ms = 20         # to the others; "none" for no link but those listed
      up_mbit = 40        # and down_mbit; left out: no limit
      [[link]]
      a = "desk"
      b = "caller"
      rtt_ms = 1
      mbit = 1000
    """
    from shardline.cli.planning import changed

    file = NodesFile.parse(_read(Path(nodes_path)))
    files = {change: changed(file, change) for change in changes}
    with Progress("reading the model", wanted=not as_json) as progress:
        sizes = _sizes(model, dtype, tokens)
        progress.say("planning")
        found = _solve(sizes, file, method, objective)
        seen = [_compare(change, found, sizes, other) for change, other in files.items()]
    if as_json:
        what_if: dict[str, Any] = {"what_if": [one.to_json() for one in seen]} if seen else {}
        click.echo(json.dumps(found.to_json() | what_if, allow_nan=False))
    else:
        _show(found, seen)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise BadInput(f"{path} is too large for a list of nodes")
        return data.decode()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path} is no text in UTF-8") from None


def _sizes(model: str, dtype: str | None, tokens: int) -> Sizes:
    """What of the model counts; torch is imported here, past all arguments."""
    import torch

    from shardline.cli.planning import sizes_of
    from shardline.model import resolve, trace

    chain = trace(resolve(model))
    own = dtype or str(chain.config.dtype).removeprefix("torch.")
    return sizes_of(chain, torch.float32 if own == "float32" else torch.bfloat16, tokens)


def _solve(sizes: Sizes, file: NodesFile, method: str, objective: str) -> Plan:
    from shardline.cli.planning import problem_of
    from shardline.partition import plan as place

    return place(problem_of(sizes, file), method, objective=objective)


def _compare(text: str, before: Plan, sizes: Sizes, file: NodesFile) -> Change:
    from shardline.cli.planning import Change

    try:
        return Change(text, before, _solve(sizes, file, before.method, str(before.objective)))
    except BadInput as error:
        return Change(text, before, None, str(error))


def _show(found: Plan, changes: list[Change]) -> None:
    """One calm table, then what the plan would do and how sure that it is the best."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("node")
    table.add_column("blocks")
    table.add_column("stage ms", justify="right")
    table.add_column("why")
    for row in _rows(found):
        table.add_row(*map(Text, row))
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, FILE_COLUMNS)
    console.print(table)
    one = (
        f"{1e3 / found.latency_ms:.1f} tokens/s for one stream ({found.latency_ms:.1f} ms a token)"
    )
    slowest = f"slowest stage {found.bottleneck_ms:.1f} ms"
    many = f"{1e3 / found.bottleneck_ms:.1f} for many ({slowest})"
    changed = [change.sentence() for change in changes]
    for line in (f"{one}, {many}", _certainty(found), *changed):
        console.print(Text(line), soft_wrap=True)


def _rows(found: Plan) -> Iterator[tuple[str, str, str, str]]:
    """A row a node: those of the chain in its order, then those that are left out.

    A reason is "name and what it has: why", and no name holds ": ".
    """
    stages = zip(found.assignment, found.stage_ms, strict=True)
    heads = [(share.node, f"{share.start}:{share.stop}", f"{ms:.1f}") for share, ms in stages]
    for place, reason in enumerate(found.reasons):
        what, _, why = reason.partition(": ")
        unused = (what.partition(" ")[0], "-", "-")
        name, blocks, stage_ms = heads[place] if place < len(heads) else unused
        yield name, blocks, stage_ms, why


def _certainty(found: Plan) -> str:
    latency = found.objective == "latency"
    spent = f"({found.method}, {found.seconds:.1f} s)"
    if found.gap < PROVEN:
        what = "takes a token through sooner" if latency else "serves many streams faster"
        return f"proven the best: no plan {what} {spent}"
    figure = "a token" if latency else "its slowest stage"
    return (
        f"any plan needs {found.lower_bound_ms:.1f} ms or more for {figure}: "
        f"this one is within {found.gap:.1%} of the best {spent}"
    )
