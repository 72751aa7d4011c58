"""`shardline eval`: what 8 bits cost a model, as the paper's Table 1, over real nodes."""

from __future__ import annotations

import functools
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from shardline.cli.bench_wanted import serve_options
from shardline.cli.demo import shipped_model
from shardline.cli.options import CODECS, THREADS_MAX, home, json_option
from shardline.cli.progress import Progress
from shardline.cli.reading import read_bounded
from shardline.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardline.evaluation import Published, Questions, Text

    Task = Questions | Text | Published

__all__ = ["evaluate"]

NODES_MAX: Final = 64
PERPLEXITY: Final = "perplexity"
MINIATURES: Final = ("last-word", "ending", "pronoun", "cause", "order")
PUBLISHED: Final = (
    "hellaswag",
    "lambada_openai",
    "causal_judgement",
    "disambiguation_qa",
    "logical_deduction",
)
"""Both as in `evaluation`, which is imported later: a test holds them equal."""
GROUPS: Final = {"miniatures": (*MINIATURES, PERPLEXITY), "published": PUBLISHED}
FILE_BYTES_MAX: Final = 2**28
TEXT_BYTES_MAX: Final = 2**24


@click.command("eval")
@click.argument("model", required=False)
@click.option(
    "--tasks",
    "tasks_text",
    default="miniatures",
    show_default=True,
    metavar="T,T,…",
    help="Of miniatures (last-word, ending, pronoun, cause, order, perplexity) and published "
    "(hellaswag, lambada_openai, causal_judgement, disambiguation_qa, logical_deduction).",
)
@click.option("--weights", default="bf16,int8", show_default=True, metavar="W,W,…")
@click.option("--wire", default="raw,int8", show_default=True, metavar="C,C,…")
@click.option("--nodes", type=click.IntRange(1, NODES_MAX), default=2, show_default=True)
@click.option("--threads", type=click.IntRange(1, THREADS_MAX), default=1, help="Of each node.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where the published tasks' files are.",
)
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help="What perplexity is of, in place of shipped stories: paragraphs, each for itself.",
)
@click.option("--limit", type=click.IntRange(min=1), help="So many of each task, the first ones.")
@click.option(
    "--save", type=click.Path(path_type=Path), help="Where the table goes: .md and .json."
)
@json_option
def evaluate(  # noqa: PLR0913  (one for each option)
    *,
    model: str | None,
    tasks_text: str,
    weights: str,
    wire: str,
    nodes: int,
    threads: int,
    data: Path | None,
    text: Path | None,
    limit: int | None,
    save: Path | None,
    as_json: bool,
) -> None:
    """Measure what fewer bits cost MODEL (default: the shipped one), weights and wire apart.

    Real node processes on loopback serve it in each kind of weights, and hidden states cross by
    each codec. The first kind over the first codec is what all others are compared with.
    """
    kinds, codecs = _listed(weights), _listed(wire)
    for kind in kinds:
        serve_options(kind)
    for codec in codecs:
        if codec not in CODECS:
            raise BadInput(f"{codec[:40]!r} is no codec: write some of {', '.join(CODECS)}")
    names = _names(_listed(tasks_text), data)
    paragraphs = None if text is None else _paragraphs(text)

    from shardline.cli.eval_run import measure_text

    started_s = time.monotonic()
    with Progress("starting nodes", wanted=not as_json) as progress:
        plan, rows = measure_text(
            model or str(shipped_model()), _tasks(names, data, paragraphs, limit), kinds, codecs,
            nodes=nodes, threads=threads, tell=progress.say,
        )  # fmt: skip

    from shardline.cli.eval_report import report, report_files, save_report
    from shardline.evaluation import table

    found = report(
        rows, model=plan.model_dir.resolve().name, nodes=nodes, threads=threads, limit=limit,
        took_s=round(time.monotonic() - started_s),
    )  # fmt: skip
    place = save or home() / "evals" / f"{found['model']}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    click.echo(json.dumps(found) if as_json else table(rows))  # whether it can be saved or not
    save_report(found, rows, place)
    if not as_json:
        click.echo(f"saved as {' and '.join(map(str, report_files(place)))}")


def _listed(text: str) -> tuple[str, ...]:
    """What stands between the commas, each once."""
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not found:
        raise BadInput("an empty list: leave the option out, or name one")
    return found


def _names(asked: Sequence[str], data: Path | None) -> list[str]:
    """The tasks, each once; raises BadInput for unknown ones, and for some that need data."""
    names = list(dict.fromkeys(one for part in asked for one in GROUPS.get(part, (part,))))
    known = [name for group in GROUPS.values() for name in group]
    for name in names:
        if name not in known:
            raise BadInput(
                f"{name[:40]!r} is no task: write some of {', '.join((*GROUPS, *known))}"
            )
        if name in PUBLISHED and data is None:
            raise BadInput(f"{name} needs --data DIR with its files as they are published")
    return names


def _tasks(
    names: Sequence[str], data: Path | None, paragraphs: tuple[str, ...] | None, limit: int | None
) -> list[Task]:
    from shardline.evaluation import Text, published_task, shipped_questions, shipped_text

    def task(name: str) -> Task:
        if name in PUBLISHED and data is not None:
            read = functools.partial(read_bounded, most_bytes=FILE_BYTES_MAX, what="a data file")
            return published_task(name, data, read, limit)
        if name != PERPLEXITY:
            return shipped_questions(name, limit)
        return Text(name, paragraphs[:limit]) if paragraphs else shipped_text(name, limit)

    return [task(name) for name in names]


def _paragraphs(file: Path) -> tuple[str, ...]:
    data = read_bounded(file, TEXT_BYTES_MAX, "a text")
    parts = data.decode("utf-8", "replace").replace("\r\n", "\n").split("\n\n")
    found = tuple(part.strip() for part in parts if part.strip())
    if not found:
        raise BadInput(f"{file} has no text")
    return found
