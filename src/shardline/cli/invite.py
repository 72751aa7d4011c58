"""`shardline invite`: the short string that opens a private swarm."""

from __future__ import annotations

import re

import click

from shardline.cli.options import DEFAULT_PORT, home, own_addresses
from shardline.core.errors import BadInput
from shardline.swarm import DIRECTORIES, Invite, InviteStore

__all__ = ["invite"]

_LIFE = re.compile(r"([0-9]{1,9})([smhd])")
_LIFE_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.group()
def invite() -> None:
    """Make or show the short string that opens a private swarm."""


@invite.command()
@click.option(
    "--bootstrap",
    multiple=True,
    metavar="HOST:PORT",
    help="Where the swarm's first nodes will listen; default: this machine.",
)
@click.option("--expires", metavar="30d", help="How long it opens the swarm; default: for ever.")
@click.option(
    "--nat",
    metavar="RELAY",
    help="For machines behind routers: find direct ways between them, helped by this relay: "
    "none, n0 (public, for trials) or https://HOST. Needs shardline[nat] on all of them.",
)
@click.option(
    "--directory",
    type=click.Choice(DIRECTORIES),
    default=DIRECTORIES[0],
    show_default=True,
    help="Who finds the nodes. dht: hivemind's Kademlia DHT, for swarms that nobody operates; "
    "takes the port after each node's own too. Needs shardline[dht] on all machines.",
)
def new(
    *, bootstrap: tuple[str, ...], expires: str | None, nat: str | None, directory: str
) -> None:
    """Found a swarm and print its invite; nodes may join it once one listens where it says."""
    made = Invite.new(
        bootstrap or own_addresses(DEFAULT_PORT),
        None if expires is None else _parse_life(expires),
        nat=nat,
        directory=directory,
    )
    InviteStore(home()).save(made)
    click.echo(made.encode())


@invite.command()
def show() -> None:
    """Print the invite that was made or used last."""
    kept = InviteStore(home()).load()
    if not kept:
        raise BadInput("no invite is kept here: make one with `shardline invite new`")
    click.echo(kept[0].encode())


def _parse_life(text: str) -> int:
    match = _LIFE.fullmatch(text)
    if not match:
        raise BadInput(f"{text!r} is no time: write 90s, 30m, 12h or 30d")
    return int(match[1]) * _LIFE_S[match[2]]
