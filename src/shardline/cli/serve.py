"""`shardline serve`: this machine's part of a model, for the swarm."""

from __future__ import annotations

import asyncio
import functools
import re
import signal
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from shardline.cli.cores import cores_of, pin
from shardline.cli.looking import GRAPH, parts
from shardline.cli.options import (
    DEFAULT_PORT,
    THREADS_MAX,
    address_book,
    check_device,
    join_option,
    keep_invite,
    model_argument,
    node_identity,
    own_addresses,
    the_invite,
    weights_folder,
    wire_option,
)
from shardline.core.errors import AddressTaken, BadInput, BlocksOutOfRange
from shardline.core.units import format_bytes, parse_bytes
from shardline.swarm import Invite
from shardline.wire import split_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardline.node import Serving, Settings
    from shardline.swarm import Identity, NodeRecord

__all__ = ["serve", "tell"]

NOWHERE = "none"
WILDCARDS = ("0.0.0.0", "[::]")  # noqa: S104  (compared with, not bound)
BLOCKS = re.compile(r"auto|[0-9]{1,6}:[0-9]{1,6}")
ADDRESS_CHARS_MAX = 100
PLAIN = {"bf16": "bfloat16", "fp32": "float32"}
QUANTISED = ("int8", "int8-weight", "int4")
"""As in `model`, which is imported later: a test holds them equal."""
CACHES = ("int8",)
"""The same."""


@click.command()
@model_argument
@click.option("--blocks", default="auto", metavar="A:B|auto", help="Which blocks to hold.")
@click.option(
    "--listen",
    metavar="HOST:PORT|none",
    help=f"Default: 0.0.0.0:{DEFAULT_PORT}, or any. none: only dial, be reached by that.",
)
@join_option
@click.option("--name", metavar="N", help="What people call this node; default: the machine's.")
@click.option("--device", default="cpu", metavar="cpu|cuda:0", help="Where to compute.")
@click.option("--dtype", type=click.Choice(["bfloat16", "float32"]), help="Default: the model's.")
@click.option(
    "--weights",
    type=click.Choice([*PLAIN, *QUANTISED]),
    help="How to hold weights: fewer bits need less memory, and are not exact. int8 is fastest.",
)
@click.option(
    "--outliers",
    type=click.FloatRange(min=0, min_open=True),
    metavar="X",
    help="With int8: inputs beyond X are multiplied in 16 bits. Default: 6.",
)
@click.option(
    "--cache",
    type=click.Choice(CACHES),
    help="How to hold keys and values: twice as many tokens in 8 bits, not exact.",
)
@click.option("--memory", metavar="8GiB", help="For weights and cache; default: most of the free.")
@click.option("--threads", type=click.IntRange(1, THREADS_MAX), metavar="N", help="CPU threads.")
@click.option("--cores", metavar="0-3|0,2", help="Run on these only, with a thread for each.")
@wire_option(
    default="int8",
    show_default=True,
    help="The coarsest in which hidden states leave here, where a session allows it; raw: never.",
)
@click.option("--pace", type=click.FloatRange(0.001, 1.0), default=1.0, hidden=True)
def serve(  # noqa: PLR0913  (one argument an option)
    *,
    model: str,
    blocks: str,
    listen: str | None,
    join_text: str | None,
    name: str | None,
    device: str,
    dtype: str | None,
    weights: str | None,
    outliers: float | None,
    cache: str | None,
    memory: str | None,
    threads: int | None,
    cores: str | None,
    wire: str,
    pace: float,
) -> None:
    """Serve a part of MODEL (a directory or a hub id) until interrupted.

    MODEL may be the folder of a cut graph: then its stages are the blocks.
    Without --join it founds a private swarm and prints its invite.
    """
    invite = Invite.new() if join_text is None else the_invite(join_text)
    memory_bytes = None if memory is None else parse_bytes(memory)
    _check(blocks, listen, device, founds=join_text is None)
    dtype, kind = _kind(dtype, weights, outliers)

    own_cores = _pinned(cores)
    with node_identity(name) as (own_name, identity):
        from shardline.model import CACHES, PagedLayer, kind_named
        from shardline.node import Pace, Settings

        settings = Settings(
            model=model,
            name=own_name,
            listen=None if listen == NOWHERE else listen or f"0.0.0.0:{DEFAULT_PORT}",
            blocks=blocks,
            device=device,
            dtype=dtype,
            weights=None if kind is None else kind_named(kind, threshold=outliers),
            weights_folder=weights_folder(),
            cache=CACHES[cache] if cache else PagedLayer,
            memory_bytes=memory_bytes,
            threads=threads or own_cores,
            wire=wire,
            pace=Pace().times(pace),
        )
        start = _Start(invite, founds=join_text is None, any_port=listen is None)
        asyncio.run(_serve(settings, start, identity))


def _check(blocks: str, listen: str | None, device: str, *, founds: bool) -> None:
    """Refuse nonsense at once, before the heavy rooms are imported."""
    if not BLOCKS.fullmatch(blocks):
        raise BlocksOutOfRange(f"--blocks wants A:B or auto, not {blocks!r}")
    if listen is not None and listen != NOWHERE:
        split_address(listen[:ADDRESS_CHARS_MAX])
    check_device(device)
    if listen == NOWHERE and founds:
        raise BadInput("a node that listens nowhere needs others to dial: give --join INVITE")


def _pinned(cores: str | None) -> int | None:
    """How many cores this process is bound to, before torch or any thread is there; None: to none.

    All of it, not only the blocks' work: what is left of the machine is for others.
    """
    if cores is None:
        return None
    own = cores_of(cores)
    pin(own)
    return len(own)


def _kind(
    dtype: str | None, weights: str | None, outliers: float | None
) -> tuple[str | None, str | None]:
    """The dtype to compute in and the kind of quantised weights, as far as a person says."""
    if outliers is not None and weights != "int8":
        raise BadInput("--outliers is for --weights int8")
    plain = PLAIN.get(weights or "")
    if plain and dtype not in {None, plain}:
        raise BadInput(f"--weights {weights} and --dtype {dtype} contradict each other")
    return plain or dtype, None if plain else weights


@dataclass(frozen=True, slots=True)
class _Start:
    """How this node comes into its swarm."""

    invite: Invite
    founds: bool
    any_port: bool


async def _serve(settings: Settings, start: _Start, identity: Identity) -> None:
    from shardline.node import Person
    from shardline.node import serve as serve_node

    def joined(invite: Invite, listening: Sequence[str]) -> None:
        own = _reachable(invite, listening)
        keep_invite(own)
        if start.founds:
            click.echo(f"invite {own.encode()}")

    stop = asyncio.Event()
    _stop_on_signals(stop)
    person = Person(joined, tell, stop, address_book())
    try:
        await serve_node(settings, start.invite, identity, person)
    except AddressTaken:
        if not start.any_port:
            raise
        anywhere = replace(settings, listen="0.0.0.0:0")
        await serve_node(anywhere, start.invite, identity, person)


def _reachable(invite: Invite, listening: Sequence[str]) -> Invite:
    """The invite with addresses that other machines can use for the one that listens on all."""
    for address in listening:
        where, slash, name = address.partition("/")
        host, _, port = where.rpartition(":")
        if host in WILDCARDS:
            for own in own_addresses(int(port)):
                invite = invite.with_bootstrap(f"{own}{slash}{name}")
    return invite


def tell(serving: Serving) -> None:
    """Say in a line or a few what this node serves."""
    record = serving.record
    at = serving.listening[0].partition("/")[0] if serving.listening else ""
    where = f"at {at}" if at else f"through {record.through}"
    click.echo(
        f"{record.name} serves {parts(record)} {record.span} of {record.blocks} of {record.model}: "
        f"{record.dtype} on {record.device}, {format_bytes(serving.weights_bytes)} of weights, "
        f"room for {_room(record)}, {where}, "
        f"ready in {serving.load_s:.1f} s"
    )
    plain = record.dtype.partition("+")[0]
    if serving.whole:
        click.echo(f"kept in {plain}: {', '.join(serving.whole)}")
    if serving.cache_whole:
        click.echo(
            f"cache kept in {plain}: that of {serving.cache_whole} of {record.blocks} blocks, "
            "which keep other states, or not those of every token"
        )


def _room(record: NodeRecord) -> str:
    if record.dtype != GRAPH:
        return f"{record.cache_tokens_total} tokens"
    from shardline.model import STEP_TOKENS

    return f"{record.cache_tokens_total // STEP_TOKENS} steps"


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for sent in (signal.SIGINT, signal.SIGTERM):
        if sys.platform == "win32":
            signal.signal(sent, functools.partial(_wake, loop, stop))
        else:
            loop.add_signal_handler(sent, stop.set)


def _wake(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, *_: object) -> None:
    loop.call_soon_threadsafe(stop.set)
