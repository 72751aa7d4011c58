"""`shardline bench node` and `bench chain`: how fast nodes serve, and what their machine could do.

Real node processes on loopback serve a whole model, and callers in this process use them as any
caller does. Bounds, nodes and Transformers alone are measured in one run, so their ratios hold on a
machine whose speed does not.
"""

from __future__ import annotations

import functools
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from shardline.cli.bench_shapes import SHAPES, SHIPPED, shaped_model
from shardline.cli.bench_table import node_table
from shardline.cli.bench_wanted import Wanted, numbers, serve_options
from shardline.cli.options import THREADS_MAX, check_device, home, json_option
from shardline.cli.progress import Progress
from shardline.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["chain", "node"]

BATCHES: Final = "1,4,8,16,32"
BATCHES_QUICK: Final = "1,2"
PROMPTS: Final = "128,1024,4096"
PROMPTS_QUICK: Final = "32"
TOKENS: Final = 24
TOKENS_QUICK: Final = 4
ARRIVALS: Final = 16
ARRIVALS_QUICK: Final = 2
ARRIVALS_MAX: Final = 64
BATCH_MAX: Final = 256
PROMPT_MAX: Final = 2**20
NODES_MAX: Final = 64


def _amounts(command: Callable[..., None]) -> Callable[..., None]:
    """How much both commands measure."""
    options = (
        click.option(
            "--callers", type=click.IntRange(1, BATCH_MAX), help="Default: as many as nodes."
        ),
        click.option("--batches", metavar="N,N,…", help=f"Sessions at once.  [default: {BATCHES}]"),
        click.option("--prompts", metavar="N,N,…", help=f"Tokens.  [default: {PROMPTS}]"),
        click.option(
            "--tokens", type=click.IntRange(2, 4096), help=f"To write.  [default: {TOKENS}]"
        ),
        click.option(
            "--arrivals",
            type=click.IntRange(0, ARRIVALS_MAX),
            help=f"Sessions that come at different times; 0: none.  [default: {ARRIVALS}]",
        ),
        click.option("--rows", is_flag=True, help="Also all rows of a batch as one session."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """What both commands take, handed on as `wanted`."""

    @click.option("--model", metavar="DIR", help="A model's directory, or hub id.")
    @click.option("--shape", type=click.Choice(SHAPES), help="Default: shipped.")
    @click.option("--weights", metavar="KIND", help="bf16, fp32, or as `serve --weights`.")
    @click.option("--threads", type=click.IntRange(1, THREADS_MAX), help="Of each node.")
    @click.option("--device", default="cpu", metavar="cpu|cuda:0", help="Where nodes compute.")
    @click.option(
        "--pin/--no-pin", default=None, help="Each node on cores of its own. Default: several are."
    )
    @click.option("--quick", is_flag=True, help="Little of everything, to try it out.")
    @click.option("--out", type=click.Path(path_type=Path), help="Where the JSON is saved.")
    @json_option
    @_amounts
    @functools.wraps(command)
    def measured(  # noqa: PLR0913  (one for each option)
        *,
        model: str | None,
        shape: str | None,
        batches: str | None,
        prompts: str | None,
        tokens: int | None,
        callers: int | None,
        arrivals: int | None,
        quick: bool,
        out: Path | None,
        as_json: bool,
        nodes: int = 1,
        **rest: Any,
    ) -> None:
        if model is not None and shape is not None:
            raise BadInput("give --model or --shape, not both")
        check_device(rest["device"])
        serve_options(rest["weights"])
        wanted = Wanted(
            model=model,
            shape=shape or SHIPPED,
            nodes=nodes,
            callers=callers or nodes,
            batches=numbers(batches or (BATCHES_QUICK if quick else BATCHES), BATCH_MAX),
            prompts=numbers(prompts or (PROMPTS_QUICK if quick else PROMPTS), PROMPT_MAX),
            tokens=tokens or (TOKENS_QUICK if quick else TOKENS),
            arrivals=(ARRIVALS_QUICK if quick else ARRIVALS) if arrivals is None else arrivals,
            quick=quick,
            **rest,
        )
        command(wanted=wanted, out=out, as_json=as_json)

    return measured


@click.command()
@_options
def node(*, wanted: Wanted, out: Path | None, as_json: bool) -> None:
    """One node with a whole model: tokens/s by sessions at once, first tokens, memory, bounds."""
    _measure("node", wanted, out, as_json=as_json)


@click.command()
@click.option("--nodes", type=click.IntRange(1, NODES_MAX), default=2, show_default=True)
@_options
def chain(*, wanted: Wanted, out: Path | None, as_json: bool) -> None:
    """The same over several nodes, each with as many of the blocks as the others."""
    _measure("chain", wanted, out, as_json=as_json)


def _measure(kind: str, wanted: Wanted, out: Path | None, *, as_json: bool) -> None:
    """Measure, save, and print."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler tells the terminal of itself
    with Progress("starting", wanted=not as_json) as progress:
        tell = functools.partial(_tell, progress)
        model = wanted.model or str(shaped_model(wanted.shape, home() / "models", tell))

        from shardline.cli.bench_run import run

        report: dict[str, Any] = {"kind": kind} | run(model, wanted, progress)
    place = out or _place(kind, report["model"])
    _save(report, place)
    click.echo(json.dumps(report) if as_json else f"{node_table(report)}\nsaved as {place}")


def _tell(progress: Progress, text: str) -> None:
    click.echo(text, err=True)
    progress.say(text)


def _place(kind: str, model: str) -> Path:
    now = datetime.now(UTC)
    return home() / "bench" / f"{kind}-{model}-{now:%Y%m%d-%H%M%S}.json"


def _save(report: dict[str, Any], place: Path) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(report, indent=1) + "\n")
    except OSError as error:
        raise BadInput(f"{place} cannot be written: {error.strerror}") from None
