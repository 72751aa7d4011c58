"""`shardline plan`: which machine should hold which blocks, and how far from the best that is.

The machines are those of a file, or those of a live swarm.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from shardline.cli.drawing import check_drawing, draw
from shardline.cli.nodes_file import NodesFile
from shardline.cli.options import (
    join_option,
    json_option,
    keep_invite,
    model_argument,
    profiles_folder,
    the_invite,
)
from shardline.cli.plan_table import certainty, headline, say, show
from shardline.cli.precompute import WithPrecompute, read_library
from shardline.cli.progress import Progress
from shardline.cli.reading import read_bounded
from shardline.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardline.cli.live import Live, Standing, Survey
    from shardline.cli.planning import Change, Sizes
    from shardline.model import ChainPlan
    from shardline.partition import Library, Plan, Problem

__all__ = ["METHODS", "OBJECTIVES", "plan"]

METHODS = ("auto", "exact", "mip", "search", "brkga", "scheme", "greedy", "memory", "petals")
"""As in `partition`, whose import would slow down every other command."""
OBJECTIVES = ("throughput", "latency")
TOKENS = 4_096
TOKENS_MAX = 2**30
FILE_BYTES_MAX = 2**24


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
    "--replicas",
    is_flag=True,
    help="Nodes may hold the same blocks and share the sessions; for throughput.",
)
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
@click.option(
    "--library",
    "library_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Schemes made by `plan precompute`, for --method scheme.",
)
@click.option(
    "--draw",
    "drawing",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw network, chain and stages too; FILE ends in .svg or .png.",
)
@json_option
def plan(  # noqa: PLR0913  (one argument an option)
    *,
    model: str,
    nodes_path: str | None,
    join_text: str | None,
    objective: str,
    method: str,
    replicas: bool,
    tokens: int,
    dtype: str | None,
    changes: tuple[str, ...],
    library_path: Path | None,
    drawing: Path | None,
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
    if replicas:
        _check_replicas(objective, drawing)
    library = _library(library_path, method)
    asked = _Asked(method, objective, library, changes, drawing, as_json, replicas)
    if drawing:
        check_drawing(drawing)
    with Progress("asking the swarm", wanted=not as_json) as progress:
        source = _visit(join_text) if nodes_path is None else _read(Path(nodes_path), changes)
        progress.say("reading the model")
        case = _case(model, source, dtype, tokens)
        progress.say("planning")
        plans = asked.plans(case.problem)
        first = next(plans)
    _answer(asked, case, first, plans)


@dataclass(frozen=True, slots=True)
class _Asked:
    """How to plan, and what to say of it."""

    method: str
    objective: str
    library: Library | None
    changes: tuple[str, ...]
    drawing: Path | None
    as_json: bool
    replicas: bool

    @property
    def refining(self) -> bool:
        """Whether a scheme's plan is the first of several: a person sees it and may wait."""
        return self.method == "scheme" and not self.as_json and not self.replicas

    def plans(self, problem: Problem) -> Iterator[Plan]:
        """One plan, or better and better ones."""
        from shardline.partition import plan as place
        from shardline.partition import plan_shared, refine

        if self.replicas:
            yield plan_shared(problem, self.method, library=self.library)
        elif self.refining:
            yield from refine(problem, objective=self.objective, library=self.library)
        else:
            yield place(problem, self.method, objective=self.objective, library=self.library)

    def settled(self, problem: Problem) -> Plan:
        """The plan to compare with what was found: a refined one is a search's."""
        method = "auto" if self.refining else self.method
        return next(replace(self, method=method).plans(problem))


@dataclass(frozen=True, slots=True)
class _Case:
    """What is planned: a model on machines."""

    title: str
    sizes: Sizes
    dtype: str
    file: NodesFile
    swarm: Survey | None
    """If the machines are those of a live one."""
    problem: Problem

    def after(self, changes: tuple[str, ...]) -> list[tuple[str, NodesFile]]:
        """The machines after each change."""
        return list(_changed(self.file, changes).items())

    def standing(self, asked: _Asked) -> Standing | None:
        """What the live swarm does now."""
        from shardline.cli.live import shared, standing

        if self.swarm is None:
            return None
        now = standing(self.swarm, self.problem, self.dtype, asked.objective)
        return shared(now, self.problem, self.dtype) if asked.replicas else now


def _case(model: str, source: NodesFile | Live, dtype: str | None, tokens: int) -> _Case:
    from shardline.cli.planning import problem_of

    chain = _chain(model)
    file, swarm = _machines(source, chain)
    dtype = dtype or (swarm and swarm.dtype) or str(chain.config.dtype).removeprefix("torch.")
    sizes = _sizes(chain, dtype, tokens)
    title = f"{Path(model).name or model}: {chain.blocks} blocks, {len(file.machines)} nodes"
    return _Case(title, sizes, dtype, file, swarm, problem_of(sizes, file))


def _answer(asked: _Asked, case: _Case, first: Plan, plans: Iterator[Plan]) -> None:
    """Show the plan, or the first one at once and then the best of those that follow."""
    found = first
    if asked.refining:
        show(first)
        with Progress("refining the plan"):
            for better in plans:
                found = better
    with Progress("comparing", wanted=not asked.as_json) as progress:
        others = [_compare(*change, found, case, asked) for change in case.after(asked.changes)]
        now = case.standing(asked)
        if asked.drawing:
            progress.say("drawing")
            draw(asked.drawing, case.problem, found, headline(found, case.title))
    if asked.as_json:
        click.echo(json.dumps(_report(found, case.sizes, others, now), allow_nan=False))
        return
    here = now.sentences(found) if now else ()
    more = [*here, *case.sizes.notes, *(change.sentence() for change in others)]
    if found is first and asked.refining:
        say(["no better plan was found", *more])
    elif found.assignment == first.assignment and asked.refining:
        say([certainty(found), *more])
    else:
        show(found, more)


def _library(path: Path | None, method: str) -> Library | None:
    if path is None:
        return None
    if method != "scheme":
        raise BadInput("--library holds schemes: it wants --method scheme beside it")
    return read_library(path)


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


def _check_replicas(objective: str, drawing: Path | None) -> None:
    if objective != "throughput":
        raise BadInput("--replicas serve many streams: they want --objective throughput")
    if drawing:
        raise BadInput("--draw shows one chain: leave out --replicas")


def _changed(file: NodesFile, changes: tuple[str, ...]) -> dict[str, NodesFile]:
    from shardline.cli.planning import changed

    return {change: changed(file, change) for change in changes}


def _read(path: Path, changes: tuple[str, ...]) -> NodesFile:
    """The file, if all changes of it can be: nonsense is answered before the model is read."""
    try:
        text = read_bounded(path, FILE_BYTES_MAX, "a list of nodes").decode()
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
    from shardline.model import cache_in, config_fingerprint, newest_profile

    name = "float32" if dtype.partition("+")[0] == "float32" else "bfloat16"
    sizes = sizes_of(chain, getattr(torch, name), tokens, cache_in(dtype))
    kept = newest_profile(profiles_folder(), config_fingerprint(chain.model_dir), name)
    if kept is None or kept.blocks != chain.blocks:
        return sizes
    return replace(sizes, block_ms=kept.block_ms())


def _compare(text: str, file: NodesFile, before: Plan, case: _Case, asked: _Asked) -> Change:
    from shardline.cli.planning import Change, problem_of

    try:
        return Change(text, before, asked.settled(problem_of(case.sizes, file)))
    except BadInput as error:
        return Change(text, before, None, str(error))
