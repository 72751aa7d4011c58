"""`shardline classify`: what is in a picture, by a model that is spread over nodes."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from shardline.cli.options import (
    asked_nodes,
    invite_option,
    json_option,
    local_nodes_option,
    model_argument,
)
from shardline.cli.progress import Progress
from shardline.cli.run_swarm import calls
from shardline.cli.tables import table_console
from shardline.core.errors import BadInput

if TYPE_CHECKING:
    from shardline.cli.run_jobs import Job

__all__ = ["classify"]

TOP = 5
RANK = 2
_Row = tuple[str, list[tuple[str, float]]]


@click.command()
@model_argument
@click.argument(
    "images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE…"
)
@click.option(
    "--top", type=click.IntRange(min=1), default=TOP, show_default=True, help="Labels of each."
)
@local_nodes_option
@invite_option
@json_option
def classify(  # noqa: PLR0913  (one argument an option)
    *,
    model: str,
    images: tuple[Path, ...],
    top: int,
    nodes: int | None,
    invite_text: str | None,
    as_json: bool,
) -> None:
    """Name what pictures show with MODEL, on nodes of this machine or, with --invite, of a swarm.

    Pictures are read by Pillow (`pip install 'shardline[vision]'`) and MODEL's own processor.
    """
    invite = asked_nodes(nodes, invite_text)
    for image in images:
        if not image.is_file():
            raise BadInput(f"there is no file {image}")
    with (
        tempfile.TemporaryDirectory(prefix="shardline-") as folder,
        Progress("reading the model", wanted=not as_json) as progress,
    ):
        from shardline.cli.run_jobs import model_folder, served_job, taken
        from shardline.model import load_pictures, model_config

        kept = model_folder(model)
        inputs = taken(model, load_pictures(kept, images))
        named: Any = model_config(kept).id2label or {}
        names: dict[int, str] = dict(named)
        job = served_job(model, inputs, nodes, Path(folder))
        (went,) = calls(job, [inputs], invite, progress)
    rows = _ranked(job, went.output, images, names, top)
    if as_json:
        found = [
            {
                "file": file,
                "labels": [{"label": label, "score": score} for label, score in ranked],
            }
            for file, ranked in rows
        ]
        click.echo(json.dumps(went.to_json(job) | {"images": found}))
    else:
        _show(rows, f"{job.route}: {job.name} on {went.way()}")


def _ranked(
    job: Job,
    output: Any,  # noqa: ANN401  (what the model returns)
    images: tuple[Path, ...],
    names: dict[int, str],
    top: int,
) -> list[_Row]:
    """For each picture the likeliest labels; raises BadInput for a model that gives none."""
    import torch

    scores = output.get("logits") if hasattr(output, "get") else None
    if not isinstance(scores, torch.Tensor) or scores.dim() != RANK:
        raise BadInput(f"{job.name} gives no logits of classes: it was not made to classify")
    likely: Any = scores.double().softmax(-1).topk(min(top, scores.shape[1]))
    rows: list[_Row] = []
    for image, values, places in zip(
        images, likely.values.tolist(), likely.indices.tolist(), strict=True
    ):
        labels = [names.get(place, str(place)) for place in places]
        rows.append((str(image), list(zip(labels, values, strict=True))))
    return rows


def _show(rows: list[_Row], way: str) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("picture")
    table.add_column("label")
    table.add_column("score", justify="right")
    for file, ranked in rows:
        for at, (label, score) in enumerate(ranked):
            table.add_row(Text(file if at == 0 else ""), Text(label), f"{score:.1%}")
    console = table_console()
    console.print(table)
    console.print(Text(way), soft_wrap=True)
