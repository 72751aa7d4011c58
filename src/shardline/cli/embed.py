"""`shardline embed`: texts as vectors, by a model that is spread over nodes."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from rich.table import Table
from rich.text import Text

from shardline.cli.options import (
    asked_nodes,
    check_out,
    invite_option,
    json_option,
    local_nodes_option,
    model_argument,
)
from shardline.cli.progress import Progress
from shardline.cli.reading import read_bounded
from shardline.cli.run_swarm import calls
from shardline.cli.tables import table_console
from shardline.core.errors import BadInput

if TYPE_CHECKING:
    import torch

    from shardline.cli.run_jobs import Job
    from shardline.cli.run_swarm import Went

__all__ = ["embed"]

FILE_BYTES = 64 * 2**20
AT_ONCE = 256
"""Texts of one call, padded to the longest of them."""
SHOWN = 60
POOLINGS = ("mean", "cls", "max")
"""As in `model`, which is imported later: a test holds them equal."""


@click.command()
@model_argument
@click.argument("texts", nargs=-1, metavar="TEXT…")
@click.option(
    "--file", type=click.Path(path_type=Path), metavar="FILE", help="A text a line, after TEXT…."
)
@local_nodes_option
@invite_option
@click.option(
    "--pooling", type=click.Choice(POOLINGS), help="Default: what the folder says, or the mean."
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="Y.npz", help="Keep them: `embeddings`."
)
@json_option
def embed(  # noqa: PLR0913  (one argument an option)
    *,
    model: str,
    texts: tuple[str, ...],
    file: Path | None,
    nodes: int | None,
    invite_text: str | None,
    pooling: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Turn texts into vectors with MODEL, on nodes of this machine or, with --invite, of a swarm.

    Tokens are pooled and vectors normalised as the folder of a sentence model says.
    """
    invite = asked_nodes(nodes, invite_text)
    check_out(out)
    every = [*texts, *_lines(file, needed=not texts)]
    with (
        tempfile.TemporaryDirectory(prefix="shardline-") as folder,
        Progress("reading the model", wanted=not as_json) as progress,
    ):
        import torch

        from shardline.cli.run_jobs import model_folder, served_job, taken
        from shardline.model import load_tokenizer, read_pooling

        kept = model_folder(model)
        pool = read_pooling(kept, pooling)
        tokenizer = load_tokenizer(kept)
        inputs = [
            taken(model, _encoded(tokenizer, every[start : start + AT_ONCE], pool.tokens))
            for start in range(0, len(every), AT_ONCE)
        ]
        job = served_job(model, inputs[0], nodes, Path(folder))
        went = calls(job, inputs, invite, progress)
        pairs = zip(went, inputs, strict=True)
        vectors = torch.cat(
            [pool(_states(job, one), given["attention_mask"]) for one, given in pairs]
        )
    if out:
        from shardline.cli.run_arrays import write_arrays

        write_arrays(out, {"embeddings": vectors})
    if as_json:
        seconds, plain = sum(one.wall_s for one in went), cast("Any", vectors).tolist()
        report = went[-1].to_json(job) | {"seconds": seconds, "embeddings": plain}
        click.echo(json.dumps(report))
    else:
        _show(every, vectors, f"{job.route}: {job.name} on {went[-1].way()}")


def _lines(file: Path | None, *, needed: bool) -> list[str]:
    """The file's texts; raises BadInput if there are none although they are needed."""
    if file is None:
        if needed:
            raise BadInput("give texts, or --file with one a line")
        return []
    try:
        text = read_bounded(file, FILE_BYTES, "texts").decode()
    except UnicodeDecodeError:
        raise BadInput(f"{file} is no text in UTF-8") from None
    found = [line for line in text.splitlines() if line.strip()]
    if needed and not found:
        raise BadInput(f"{file} holds no text")
    return found


def _encoded(tokenizer: Any, texts: list[str], tokens: int | None) -> Any:  # noqa: ANN401
    """What the model takes for these texts, padded to the longest."""
    longest = min(tokens or tokenizer.model_max_length, tokenizer.model_max_length)
    return tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")


def _states(job: Job, went: Went) -> torch.Tensor:
    """Its tokens' states, (texts, tokens, width); raises BadInput for a model that gives none."""
    import torch

    states = went.output.get("last_hidden_state") if hasattr(went.output, "get") else None
    if not isinstance(states, torch.Tensor):
        raise BadInput(
            f"{job.name} gives no last_hidden_state to pool: take the network without a head"
        )
    return states.float()


def _show(texts: list[str], vectors: torch.Tensor, way: str) -> None:
    """A row a text: how alike it is to the first."""
    from torch.nn import functional

    alike: Any = functional.cosine_similarity(vectors, vectors[:1])
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("text")
    table.add_column("cosine to the first", justify="right")
    for text, value in zip(texts, alike.tolist(), strict=True):
        shown = text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
        table.add_row(Text(shown), f"{value:.4f}")
    console = table_console()
    console.print(table)
    console.print(Text(f"{len(texts)} vectors of {vectors.shape[1]} numbers"), soft_wrap=True)
    console.print(Text(way), soft_wrap=True)
