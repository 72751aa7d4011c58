"""`shardline run`: any module, a cut graph or a model over several nodes, called once."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from shardline.cli.inspect_factory import names_factory
from shardline.cli.options import (
    asked_nodes,
    check_out,
    invite_option,
    json_option,
    local_nodes_option,
)
from shardline.cli.progress import Progress
from shardline.cli.run_swarm import Went, calls
from shardline.cli.tables import table_console
from shardline.core.errors import BadInput, GiveUp
from shardline.core.units import format_bytes

if TYPE_CHECKING:
    from shardline.cli.run_jobs import Job
    from shardline.swarm import Invite

__all__ = ["run"]

ROUNDING = 1e-3
"""More difference than this, beside the largest number, is no rounding."""


@click.command()
@click.argument("target", metavar="FILE.py:FACTORY|DIR|MODEL")
@click.option(
    "--inputs",
    type=click.Path(path_type=Path),
    metavar="X.npz",
    help="What goes in, an array for each argument, dots for what is in one (seen.image). "
    "Default: the factory's own example.",
)
@local_nodes_option
@invite_option
@click.option(
    "--check", is_flag=True, help="Run it in this process too, and say how far they differ."
)
@click.option("--out", type=click.Path(path_type=Path), metavar="Y.npz", help="Keep the outputs.")
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    metavar="ROWS",
    help="The most rows of a batch that travel together. Default: so many that all nodes work.",
)
@click.option(
    "--cut",
    "parts",
    multiple=True,
    metavar="PATH",
    help="Only this part of the module (encoder.layers.3) on nodes, the rest of its code here.",
)
@json_option
def run(  # noqa: PLR0913  (one argument an option)
    *,
    target: str,
    inputs: Path | None,
    nodes: int | None,
    invite_text: str | None,
    check: bool,
    out: Path | None,
    batch: int | None,
    parts: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run a module over several nodes: on this machine, or with --invite on a running swarm.

    A module of your own: FACTORY is a function in FILE.py without arguments, which returns
    (module, args) or (module, args, kwargs). Nodes need none of its code. DIR is what `shardline
    cut` wrote, MODEL a directory or hub id of Transformers. A module that cannot be captured as a
    graph may have parts that can: name them with --cut.
    """
    invite = _check_options(target, inputs, nodes, invite_text, out)
    _check_parts(parts, target, invite)
    with (
        tempfile.TemporaryDirectory(prefix="shardline-") as folder,
        Progress("reading the module", wanted=not as_json) as progress,
        contextlib.redirect_stdout(sys.stderr),  # what a person's module may print
    ):
        if parts:
            from shardline.cli.run_parts import run_parts

            job, went = run_parts(target, parts, inputs, Path(folder), nodes=nodes, batch=batch)
        else:
            from shardline.cli.run_jobs import job_of

            job = job_of(target, inputs, nodes, Path(folder))
            (went,) = calls(job, [job.kwargs], invite, progress, batch)
        progress.say("running it here")
        difference = _difference(job, went.output) if check else None
    if out:
        from shardline.cli.run_arrays import write_arrays

        write_arrays(out, went.output)
    if as_json:
        report = went.to_json(job) | {"outputs": _outputs(went), "max_abs_diff": difference}
        click.echo(json.dumps(report, allow_nan=False))
    else:
        _show(job, went, difference)
    if difference is not None and not difference <= ROUNDING * max(1.0, _largest(went)):
        raise GiveUp(f"the swarm's outputs differ from those of one process by {difference:.3g}")


def _check_options(
    target: str, inputs: Path | None, nodes: int | None, invite_text: str | None, out: Path | None
) -> Invite | None:
    """Refuse nonsense at once, before the heavy rooms are imported."""
    if inputs and not inputs.is_file():
        raise BadInput(f"there is no file {inputs}")
    check_out(out)
    invite = asked_nodes(nodes, invite_text)
    if invite and names_factory(target):
        raise BadInput(
            "a running swarm serves a folder: `shardline cut` writes one of this module, "
            "`shardline serve` serves it, and here its name is given"
        )
    return invite


def _check_parts(parts: tuple[str, ...], target: str, invite: Invite | None) -> None:
    if parts and (invite or not names_factory(target)):
        raise BadInput("--cut is for FILE.py:FACTORY, on nodes of this machine: no --invite")
    if not all(parts):
        raise BadInput("--cut takes the name of a part, such as encoder.layers.3")


def _difference(job: Job, output: Any) -> float:  # noqa: ANN401  (what a module returns)
    """The largest difference to the same in this process; raises GiveUp if they are not alike."""
    import torch

    from shardline.cli.run_arrays import leaves_by_name

    threads = torch.get_num_threads()
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            expected = job.alone()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        torch.set_num_threads(threads)
    ours, theirs = dict(leaves_by_name(output)), dict(leaves_by_name(expected))
    if set(ours) != set(theirs):
        raise GiveUp(f"{job.name} gives {', '.join(theirs)} here, and {', '.join(ours)} there")
    return max((_apart(ours[name], theirs[name]) for name in ours), default=0.0)


def _apart(one: Any, other: Any) -> float:  # noqa: ANN401  (leaves of an output)
    import torch

    if not isinstance(other, torch.Tensor) or not isinstance(one, torch.Tensor):
        return 0.0 if one == other else float("inf")
    if one.shape != other.shape or one.dtype != other.dtype:
        return float("inf")
    wide = torch.complex128 if one.is_complex() else torch.float64
    mine, theirs = one.to(wide), other.detach().to(wide)
    same = (mine == theirs) | (mine.isnan() & theirs.isnan())
    gap = (mine - theirs).abs()[~same].nan_to_num(float("inf"), float("inf"))
    return float(gap.max()) if gap.numel() else 0.0


def _leaves(went: Went) -> list[tuple[str, Any]]:
    """The outputs by name."""
    from shardline.cli.run_arrays import leaves_by_name

    return list(leaves_by_name(went.output))


def _outputs(went: Went) -> list[dict[str, Any]]:
    """As machines read them."""
    return [
        {"name": name, "shape": list(leaf.shape), "dtype": _dtype(leaf)}
        if hasattr(leaf, "shape")
        else {"name": name, "value": leaf if math.isfinite(leaf) else str(leaf)}
        for name, leaf in _leaves(went)
    ]


def _largest(went: Went) -> float:
    """The largest finite number in the outputs."""
    import torch

    tensors = [leaf for _, leaf in _leaves(went) if isinstance(leaf, torch.Tensor)]
    finite = [t[t.isfinite()].abs() for t in tensors]
    return max((float(t.max()) for t in finite if t.numel()), default=0.0)


def _show(job: Job, went: Went, difference: float | None) -> None:
    """One calm table of what came back, then the way it went."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("output", "shape", "dtype"):
        table.add_column(column)
    for name, leaf in _leaves(went):
        shape = "x".join(map(str, leaf.shape)) or "1" if hasattr(leaf, "shape") else repr(leaf)
        table.add_row(*map(Text, (name, shape, _dtype(leaf))))
    console = table_console()
    console.print(table)
    what = {"chain": "blocks", "graph": "stages"}.get(job.route, "parts' stages")
    lines = [f"{job.route}: {job.name}, {what} on {went.way()}"]
    parts = f" in {len(went.rows)} parts of {went.rows[0]} rows or so" if went.rows else ""
    lines.append(f"{went.wall_s:.2f} s{parts}, {format_bytes(went.moved_bytes)} over the links")
    if difference is not None:
        lines.append(f"largest difference to one process: {difference:.3g}")
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _dtype(leaf: Any) -> str:  # noqa: ANN401  (a leaf of an output)
    return str(getattr(leaf, "dtype", type(leaf).__name__)).removeprefix("torch.")
