"""`shardline plan precompute`: make the library of schemes, or another one.

`plan` takes a model's name, and this name is taken first: a model in a folder `precompute` is
`./precompute`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shardline.cli.options import json_option
from shardline.cli.progress import Progress
from shardline.cli.reading import read_bounded
from shardline.core.errors import BadInput

if TYPE_CHECKING:
    from shardline.partition import Library, Scheme

__all__ = ["WithPrecompute", "precompute", "read_library"]

NODES_MAX, BLOCKS_MAX = 512, 512
LIBRARY_BYTES_MAX = 2**24


class WithPrecompute(click.Command):
    """`plan`, with one word that is no model."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Of `precompute`, if that is the first word."""
        if args[:1] == [precompute.name]:
            return precompute.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command()
@click.option(
    "--nodes-count", "nodes", multiple=True, type=click.IntRange(1, NODES_MAX), metavar="N",
    default=(6, 12, 24, 48, 96), show_default=True, help="Of a network; may be given often.",
)  # fmt: skip
@click.option(
    "--blocks-count", "blocks", multiple=True, type=click.IntRange(1, BLOCKS_MAX), metavar="N",
    default=(32, 80), show_default=True, help="Of a model; may be given often.",
)  # fmt: skip
@click.option(
    "--family", "families", multiple=True,
    help="Kind of network; may be given often.  [default: all]",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Where to write; schemes of other names that are there stay.  [default: only show]",
)  # fmt: skip
@json_option
def precompute(  # noqa: PLR0913  (one argument an option)
    *,
    nodes: tuple[int, ...],
    blocks: tuple[int, ...],
    families: tuple[str, ...],
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Plan made-up networks near the best and keep the plans as schemes, which `--method scheme`
    lays on others. The same options write the same bytes."""
    from shardline.partition import FAMILIES, Library
    from shardline.partition import precompute as made

    old = read_library(out).schemes if out and out.exists() else ()
    kept = {scheme.name: scheme for scheme in old}
    rows: list[dict[str, Any]] = []
    with Progress("planning", wanted=not as_json) as progress:
        for scheme in made(nodes, families or tuple(FAMILIES), blocks, seed):
            kept[scheme.name] = scheme
            rows.append(_row(scheme))
            progress.say(f"planned {scheme.name}")
    if out:
        _write(out, Library(tuple(kept[name] for name in sorted(kept))).to_bytes())
    click.echo(json.dumps({"rows": rows}) if as_json else _table(rows))


def read_library(path: Path) -> Library:
    """The schemes of a file; raises BadInput, which names it."""
    from shardline.partition import Library

    data = read_bounded(path, LIBRARY_BYTES_MAX, "a library of schemes")
    try:
        return Library.from_bytes(data)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}") from None


def _row(scheme: Scheme) -> dict[str, Any]:
    wide, fast = scheme.throughput, scheme.latency
    return {
        "name": scheme.name,
        "throughput_ratio": wide.ratio,
        "throughput_stages": len(wide.roles),
        "latency_ratio": fast.ratio,
        "latency_stages": len(fast.roles),
    }


def _table(rows: list[dict[str, Any]]) -> str:
    """A line a scheme: how many stages, and how far from a quick bound."""
    lines = [f"{'scheme':28}{'throughput':>16}{'latency':>16}"]
    for row in rows:
        cells = [
            f"{row[f'{kind}_stages']} stages {row[f'{kind}_ratio'] - 1:6.1%}"
            for kind in ("throughput", "latency")
        ]
        lines.append(f"{row['name']:28}{cells[0]:>16}{cells[1]:>16}")
    return "\n".join(lines)
