"""Arguments that several commands share, and the state under $SHARDLINE_HOME.

The environment is read here and nowhere else.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click
import psutil
from filelock import FileLock, Timeout

from shardline.core.errors import BadInput
from shardline.swarm import AddressBook, Identity, Invite, InviteStore, check_name
from shardline.wire import BLOCK_DEFAULT, BLOCK_MAX, BLOCK_MIN

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = [
    "DEFAULT_PORT",
    "THREADS_MAX",
    "address_book",
    "asked_nodes",
    "check_device",
    "check_out",
    "home",
    "invite_option",
    "join_option",
    "json_option",
    "keep_invite",
    "local_nodes_option",
    "model_argument",
    "node_identity",
    "own_addresses",
    "profiles_folder",
    "standby_option",
    "the_invite",
    "weights_folder",
    "wire_option",
    "wire_options",
]

DEFAULT_PORT = 7411
THREADS_MAX = 1_024
LOCAL_NODES_MAX = 64
SAME_NAME_MAX = 64
NAME_BYTES_MAX = 200
ADDRESSES_MAX = 3
CODECS = ("raw", "int8")
"""As in `codec`, which is imported later: a test holds them equal."""
DEVICE = re.compile(r"(?:cpu|cuda|mps)(?::[0-9]{1,3})?")

model_argument = click.argument("model")
join_option = click.option(
    "--join", "join_text", metavar="INVITE", envvar="SHARDLINE_INVITE", help="The swarm's invite."
)
invite_option = click.option(
    "--invite",
    "--join",
    "invite_text",
    metavar="INVITE",
    help="Ask the nodes of this swarm, instead of some that are started here.",
)
local_nodes_option = click.option(
    "--nodes",
    type=click.IntRange(1, LOCAL_NODES_MAX),
    metavar="N",
    help="Nodes to start on this machine. Default: 3; of a cut graph, one for each stage.",
)
standby_option = click.option(
    "--standby",
    type=click.IntRange(0, 1),
    default=0,
    metavar="N",
    help="1: keep a second node warm for each span, so that a death costs next to nothing.",
)
wire_option = functools.partial(click.option, "--wire", type=click.Choice(CODECS))
"""`--wire`, with its default and help."""
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def wire_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every command that writes text: how coarsely hidden states may cross."""
    wire = wire_option(
        default=CODECS[0],
        show_default=True,
        help="How coarsely hidden states may cross: int8 is a quarter of float32, and not exact.",
    )
    block = click.option(
        "--wire-block",
        type=click.IntRange(BLOCK_MIN, BLOCK_MAX),
        default=BLOCK_DEFAULT,
        show_default=True,
        metavar="N",
        help="With int8: the most elements that share a scale.",
    )
    return wire(block(command))


def home() -> Path:
    """Where identities, invites and measurements are kept."""
    return Path(os.environ.get("SHARDLINE_HOME") or "~/.shardline").expanduser()


def profiles_folder() -> Path:
    """Where is kept what blocks cost on this machine."""
    return home() / "profiles"


def weights_folder() -> Path:
    """Where quantised weights are kept for the next start."""
    return home() / "weights"


def check_device(name: str) -> None:
    """Refuse nonsense at once, before torch is imported; raises BadInput."""
    if not DEVICE.fullmatch(name):
        raise BadInput(f"{name!r} is no device: write cpu, or cuda:0 for the first GPU")


def check_out(out: Path | None) -> None:
    """Refuse at once what no file can be written as, before anything runs; raises BadInput."""
    if out and not out.absolute().parent.is_dir():
        raise BadInput(f"there is no folder {out.absolute().parent} for {out.name}")
    if out and out.is_dir():
        raise BadInput(f"{out} is a folder: give a file")


def the_invite(join_text: str | None) -> Invite:
    """The invite that was given or, without one, the last one that is kept."""
    if join_text is not None:
        return Invite.parse(join_text)
    kept = InviteStore(home()).load()
    if not kept:
        raise BadInput("give --join INVITE: `shardline invite show` prints it where a node serves")
    return kept[0]


def asked_nodes(nodes: int | None, invite_text: str | None) -> Invite | None:
    """The swarm whose nodes are asked; None: nodes are started here. Raises BadInput for both."""
    if invite_text is None:
        return None
    if nodes is not None:
        raise BadInput("--nodes starts nodes here, --invite asks those that run: give one of them")
    return Invite.parse(invite_text)


def address_book() -> AddressBook:
    """Where the nodes of each swarm could be dialled when they were last heard."""
    return AddressBook(home())


def keep_invite(invite: Invite) -> None:
    """For the next time; only an invite that opened its swarm may take an older one's place."""
    InviteStore(home()).save(invite)


@contextlib.contextmanager
def node_identity(name: str | None) -> Generator[tuple[str, Identity]]:
    """A name that no other process of this home serves by, and its identity, locked meanwhile.

    Without a name it is the machine's, with a number behind it if need be. Raises BadInput if the
    name that was given is in use.
    """
    folder = home() / "nodes"
    own = platform.node().partition(".")[0] or "node"
    numbered = [own, *(f"{own}-{count}" for count in range(2, SAME_NAME_MAX))]
    for candidate in numbered if name is None else [_node_name(name)]:
        lock = _lock(folder / f"{candidate}.lock")
        if lock is not None:
            try:
                yield candidate, Identity.load_or_create(folder / f"{candidate}.key")
            finally:
                lock.release()
            return
    raise BadInput(f"a node named {name or own!r} serves from here already: give another --name")


def _node_name(text: str) -> str:
    """A name that fits a record and a file."""
    name = check_name(text)
    if Path(name).name != name or len(name.encode()) > NAME_BYTES_MAX:
        raise BadInput(f"{name!r} is no name for a node: leave out slashes, and make it short")
    return name


def _lock(path: Path) -> FileLock | None:
    """The lock, taken, or None if another process has it; raises BadInput."""
    lock = FileLock(path, timeout=0)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        return None
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}") from None
    return lock


def own_addresses(port: int) -> tuple[str, ...]:
    """This machine's addresses as others on its networks may reach it, loopback if it has none."""
    found = [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    ]
    return tuple(f"{address}:{port}" for address in found[:ADDRESSES_MAX] or ["127.0.0.1"])
