"""`shardline profile`: what each kind of a model's blocks costs on this machine."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from shardline.cli.options import (
    THREADS_MAX,
    check_device,
    json_option,
    model_argument,
    profiles_folder,
)
from shardline.cli.progress import Progress
from shardline.cli.tables import table_console
from shardline.core.spans import Span
from shardline.core.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardline.model import BlockKind, Profile

__all__ = ["profile"]

PROMPT_TOKENS = 256
SPANS_SHOWN = 4


@click.command()
@model_argument
@click.option("--device", default="cpu", metavar="cpu|cuda:0", help="Where to measure.")
@click.option("--dtype", type=click.Choice(["bfloat16", "float32"]), help="Default: the model's.")
@click.option("--threads", type=click.IntRange(1, THREADS_MAX), metavar="N", help="CPU threads.")
@click.option("--again", is_flag=True, help="Measure anew what was measured before.")
@json_option
def profile(  # noqa: PLR0913  (one argument an option)
    *,
    model: str,
    device: str,
    dtype: str | None,
    threads: int | None,
    again: bool,
    as_json: bool,
) -> None:
    """Measure what a block of MODEL costs on this machine, once for each kind of block.

    Reads no weights. The result is kept, and `shardline plan` weighs the blocks by it.
    """
    check_device(device)
    with Progress("reading the model", wanted=not as_json) as progress:
        found, kept = _profile(model, device, dtype, threads, progress, again=again)
    if as_json:
        click.echo(json.dumps(_plain(found, kept=kept), allow_nan=False))
    else:
        _show(found, kept=kept)


def _profile(  # noqa: PLR0913  (what a person may choose)
    model: str,
    device_name: str,
    dtype: str | None,
    threads: int | None,
    progress: Progress,
    *,
    again: bool,
) -> tuple[Profile, bool]:
    """The profile, and whether it was kept; torch is imported here, past all arguments."""
    import torch

    from shardline.model import (
        keep_profile,
        kept_profile,
        measure_profile,
        resolve,
        setup_of,
        trace,
    )
    from shardline.node import memory_limit_bytes, open_device

    if threads is not None:
        torch.set_num_threads(threads)
    device = open_device(device_name)
    chain = trace(resolve(model))
    own = dtype or str(chain.config.dtype).removeprefix("torch.")
    dtype_ = torch.float32 if own == "float32" else torch.bfloat16
    folder = profiles_folder()
    kept = kept_profile(folder, setup_of(chain, dtype=dtype_, device=device))
    if kept is not None and not again:
        return kept, True
    progress.say("measuring")
    memory_bytes = memory_limit_bytes(None, device)
    found = measure_profile(chain, dtype=dtype_, device=device, memory_bytes=memory_bytes)
    keep_profile(folder, found)
    return found, False


def _plain(found: Profile, *, kept: bool) -> dict[str, Any]:
    whole = Span(0, found.blocks)
    return json.loads(found.to_json()) | {
        "kept": kept,
        "decode_ms": found.step_ms(whole),
        "prefill_ms_per_token": found.step_ms(whole, PROMPT_TOKENS) / PROMPT_TOKENS,
        "block_ms": found.step_ms(whole) / found.blocks,
    }


def _show(found: Profile, *, kept: bool) -> None:
    """One calm table, then what the whole model costs."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("blocks", "kind"):
        table.add_column(column)
    for column in ("weights", "cache a token", "decode ms", "4 at once", "prompt ms a token"):
        table.add_column(column, justify="right")
    for kind in found.kinds:
        table.add_row(*map(Text, _row(kind)))
    console = table_console()
    console.print(table)
    for line in _lines(found, kept=kept):
        console.print(Text(line), soft_wrap=True)


def _row(kind: BlockKind) -> tuple[str, ...]:
    decode = next(timing for timing in kind.timings if timing.tokens == 1)
    return (
        _spans(kind.blocks),
        kind.name,
        format_bytes(kind.parameter_bytes),
        format_bytes(kind.cache_bytes_per_token),
        f"{decode.median_ms:.3g} ({decode.low_ms:.3g} to {decode.high_ms:.3g})",
        f"{kind.step_ms(1, 4):.3g}",
        f"{kind.step_ms(PROMPT_TOKENS, 1) / PROMPT_TOKENS:.3g}",
    )


def _lines(found: Profile, *, kept: bool) -> Iterator[str]:
    setup, whole = found.setup, Span(0, found.blocks)
    plural = "s" if setup.threads > 1 else ""
    decode_ms = found.step_ms(whole)
    yield (
        f"all {found.blocks} blocks of {found.model}, {setup.dtype} on {setup.device}, "
        f"{setup.threads} thread{plural}: {decode_ms:.3g} ms a token, "
        f"{found.step_ms(whole, PROMPT_TOKENS):.3g} ms for a prompt of {PROMPT_TOKENS}; "
        f"{format_bytes(found.output_bytes_per_token)} a token between two nodes"
    )
    yield f"in a nodes file: block_ms = {decode_ms / found.blocks:.3g}"
    if kept:
        at = datetime.fromtimestamp(found.measured_at_s, UTC)
        yield f"measured {at:%Y-%m-%d %H:%M} UTC and kept: --again measures anew"


def _spans(blocks: tuple[int, ...]) -> str:
    """As runs, the first few of them."""
    runs: list[Span] = []
    for block in blocks:
        if runs and runs[-1].stop == block:
            runs[-1] = Span(runs[-1].start, block + 1)
        else:
            runs.append(Span(block, block + 1))
    more = f" and {len(runs) - SPANS_SHOWN} more" if len(runs) > SPANS_SHOWN else ""
    return " ".join(map(str, runs[:SPANS_SHOWN])) + more
