"""`shardline plan`: which machine should hold which blocks, and how far from the best that is.

The machines are those of a file, or those of a live swarm.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shardline.cli.nodes_file import NodesFile
from shardline.cli.options import (
    join_option,
    json_option,
    keep_invite,
    model_argument,
    profiles_folder,
    the_invite,
)
from shardline.cli.precompute import WithPrecompute
from shardline.cli.progress import Progress
from shardline.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardline.cli.live import Live, Standing, Survey
    from shardline.cli.planning import Change, Sizes
    from shardline.model import ChainPlan
    from shardline.partition import Plan

__all__ = ["METHODS", "OBJECTIVES", "plan"]

METHODS = ("auto", "exact", "mip", "search", "brkga", "scheme", "greedy", "memory", "petals")
"""As in `partition`, whose import would slow down every other command."""
OBJECTIVES = ("throughput", "latency")
TOKENS = 4_096
TOKENS_MAX = 2**30
FILE_BYTES_MAX = 2**24
FILE_COLUMNS = 200
"""How wide the table may be where nobody's terminal sets a limit."""
PROVEN = 1e-6
"""A gap below this is rounding."""


@click.command(cls=WithPrecompute)
@model_argument
@click.option("--nodes", "nodes_path", metavar="FILE", help="Machines, in TOML.")
@join_option
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
    nodes_path: str | None,
    join_text: str | None,
    objective: str,
    method: str,
    tokens: int,
    dtype: str | None,
    changes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Plan which node holds which blocks of MODEL, and say how far from the best that is.

    The nodes are those of FILE, or those of the live swarm of INVITE, with what they measured.

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
    _one_source(nodes_path)
    with Progress("asking the swarm", wanted=not as_json) as progress:
        source = _visit(join_text) if nodes_path is None else _read(Path(nodes_path), changes)
        progress.say("reading the model")
        chain = _chain(model)
        file, swarm = _machines(source, chain)
        dtype = dtype or (swarm and swarm.dtype) or str(chain.config.dtype).removeprefix("torch.")
        sizes = _sizes(chain, dtype, tokens)
        progress.say("planning")
        found = _solve(sizes, file, method, objective)
        others = [_compare(*change, found, sizes) for change in _changed(file, changes).items()]
        now = None if swarm is None else _standing(swarm, sizes, dtype, objective)
    if as_json:
        click.echo(json.dumps(_report(found, sizes, others, now), allow_nan=False))
    else:
        here = now.sentences(found) if now else ()
        _show(found, [*here, *sizes.notes, *(change.sentence() for change in others)])


def _report(
    found: Plan, sizes: Sizes, others: list[Change], now: Standing | None
) -> dict[str, Any]:
    report = found.to_json() | {"work": "measured" if sizes.block_ms else "weights"}
    if others:
        report["what_if"] = [one.to_json() for one in others]
    return report | ({"swarm": now.to_json(found)} if now else {})


def _one_source(nodes_path: str | None) -> None:
    """Raise BadInput if a person named a file and a swarm; an invite in the environment waits."""
    source = click.get_current_context().get_parameter_source("join_text")
    if nodes_path is not None and source is ParameterSource.COMMANDLINE:
        raise BadInput("--nodes and --join exclude one another: plan for a file or for a swarm")


def _changed(file: NodesFile, changes: tuple[str, ...]) -> dict[str, NodesFile]:
    from shardline.cli.planning import changed

    return {change: changed(file, change) for change in changes}


def _read(path: Path, changes: tuple[str, ...]) -> NodesFile:
    """The file, if all changes of it can be: nonsense is answered before the model is read."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise BadInput(f"{path} is too large for a list of nodes")
        text = data.decode()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path} is no text in UTF-8") from None
    file = NodesFile.parse(text)
    _changed(file, changes)
    return file


def _visit(join_text: str | None) -> Live:
    """Ask the swarm of this invite, or of the one that is kept."""
    from shardline.cli.live import visit

    try:
        invite = the_invite(join_text)
    except BadInput as error:
        raise BadInput(f"{error}; or give --nodes FILE") from None
    live = asyncio.run(visit(invite))
    keep_invite(invite)
    return live


def _chain(model: str) -> ChainPlan:
    """The model cut into blocks; torch is imported here, past all arguments."""
    from shardline.model import resolve, trace

    return trace(resolve(model))


def _machines(source: NodesFile | Live, chain: ChainPlan) -> tuple[NodesFile, Survey | None]:
    """A file as it is, a swarm written down for this model."""
    if isinstance(source, NodesFile):
        return source, None
    from shardline.cli.live import survey
    from shardline.model import fingerprint

    seen = survey(source, fingerprint(chain.model_dir))
    return seen.file, seen


def _sizes(chain: ChainPlan, dtype: str, tokens: int) -> Sizes:
    """What counts of the model, with what its blocks took if `shardline profile` measured them."""
    import torch

    from shardline.cli.planning import sizes_of
    from shardline.model import config_fingerprint, newest_profile

    name = "float32" if dtype == "float32" else "bfloat16"
    sizes = sizes_of(chain, getattr(torch, name), tokens)
    kept = newest_profile(profiles_folder(), config_fingerprint(chain.model_dir), name)
    if kept is None or kept.blocks != chain.blocks:
        return sizes
    return replace(sizes, block_ms=kept.block_ms())


def _standing(swarm: Survey, sizes: Sizes, dtype: str, objective: str) -> Standing:
    from shardline.cli.live import standing
    from shardline.cli.planning import problem_of

    return standing(swarm, problem_of(sizes, swarm.file), dtype, objective)


def _solve(sizes: Sizes, file: NodesFile, method: str, objective: str) -> Plan:
    from shardline.cli.planning import problem_of
    from shardline.partition import plan as place

    return place(problem_of(sizes, file), method, objective=objective)


def _compare(text: str, file: NodesFile, before: Plan, sizes: Sizes) -> Change:
    from shardline.cli.planning import Change

    try:
        return Change(text, before, _solve(sizes, file, before.method, str(before.objective)))
    except BadInput as error:
        return Change(text, before, None, str(error))


def _show(found: Plan, more: list[str]) -> None:
    """One calm table, then what the plan would do, how sure that it is the best, and more lines."""
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
    for line in (f"{one}, {many}", _certainty(found), *more):
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
