"""A swarm of real node processes on this machine; they end when this process does."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from shardline.client import Swarm, joined
from shardline.core.errors import NodeLost
from shardline.core.spans import Span
from shardline.swarm import Invite, State

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from multiprocessing.process import BaseProcess

    from shardline.cli.cables import Cables, Place

    _Start = tuple[Span, Place | None, Sequence[str], Callable[[], None] | None]

__all__ = ["NAMES", "LocalSwarm", "local_swarm", "unequal_spans"]

START_S = 120.0
"""How long all nodes together may take to start; a busy machine imports slowly."""
POLL_S = 0.05
LEAVE_S = 10.0
NAMES = ("ada", "ben", "cleo", "dora", "emil", "fay", "gus", "hana", "ivo", "june", "kai", "lea")


def unequal_spans(blocks: int, nodes: int) -> list[Span]:
    """Spans that cover all blocks, each at least as long as the one before: 1 to 2 to 3 …"""
    shares = range(1, nodes + 1)
    rest = blocks - nodes  # no span may be empty
    lengths = [1 + rest * share // sum(shares) for share in shares]
    left = blocks - sum(lengths)
    lengths = [
        length + (share > nodes - left) for share, length in zip(shares, lengths, strict=True)
    ]
    return [Span(start, stop) for start, stop in pairwise(accumulate(lengths, initial=0))]


class _Tie(Protocol):
    """One end of a pipe; the operating system closes it when its process ends."""

    def close(self) -> None: ...

    def recv_bytes(self) -> bytes: ...


class LocalSwarm:
    """The caller's view, and each node's process by name.

    All processes are forked from one that has imported what a node needs and done nothing else, so
    that a node starts in a fraction of a second. Each is told what `shardline serve` is told.
    """

    def __init__(self, swarm: Swarm, model: Path, folder: Path, options: Sequence[str]) -> None:
        self.swarm = swarm
        self.processes: dict[str, BaseProcess] = {}
        self._model = model
        self._folder = folder
        self._options = options
        self._ties: dict[str, _Tie] = {}
        self._started: dict[str, _Start] = {}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["shardline.cli.serve", "shardline.node"])
        self.cables: Cables | None = None
        """What nodes with a place are linked by."""

    @property
    def invite(self) -> str:
        """For others on this machine."""
        return self.swarm.invite.encode()

    def start(
        self,
        name: str,
        span: Span,
        place: Place | None = None,
        options: Sequence[str] = (),
        prepare: Callable[[], None] | None = None,
    ) -> None:
        """Start a node, which will be ready some time later.

        `options` are for `serve`; `prepare` is called in its process before that.
        """
        self._started[name] = (span, place, options, prepare)
        arguments = [str(self._model), "--name", name, "--blocks", str(span)]
        arguments += ["--listen", place.listen if place else "127.0.0.1:0"]
        arguments += ["--join", self.invite, *self._options, *options]
        self._ties[name], tie = self._context.Pipe()
        first = [prepare] if prepare else []
        if place is not None:
            from shardline.cli.cables import enter

            first.insert(0, functools.partial(enter, place.network))
        process = self._context.Process(
            target=_serve, args=(arguments, str(self._folder), name, tie, first), daemon=True
        )
        process.start()
        tie.close()
        self.processes[name] = process

    def kill(self, name: str) -> None:
        """End a node as a pulled plug would."""
        self.processes[name].kill()
        self.processes[name].join()

    def end(self, name: str) -> None:
        """Ask a node to leave, and insist after a while."""
        self._ties.pop(name).close()
        process = self.processes.pop(name)
        process.join(LEAVE_S)
        if process.is_alive():
            process.kill()
            process.join()

    def replace(self, name: str, fresh: str) -> None:
        """Start another node where this one, which died, has been."""
        self.end(name)
        self.start(fresh, *self._started.pop(name))

    def place_of(self, name: str) -> Place | None:
        """Where a node lives, if it has a cable of its own."""
        return self._started[name][1]

    @contextlib.contextmanager
    def cabled(self, count: int) -> Generator[tuple[Place, ...]]:
        """So many places for nodes, whose cables can be cut; raises Unsupported."""
        from shardline.cli.cables import cables

        (own, *_) = self.swarm.invite.bootstrap
        with cables(own, count, self._context) as self.cables:
            yield self.cables.places

    def wait_until_ready(self) -> None:
        """Wait until every process serves; raises NodeLost with the last words of one that ends."""
        deadline_s = time.monotonic() + START_S
        while True:
            ready = {
                record.name for record in self.swarm.nodes_now() if record.state is State.READY
            }
            if ready >= set(self.processes):
                return
            for name, process in self.processes.items():
                if not process.is_alive():
                    words = (self._folder / f"{name}.err").read_text().strip() or "no word"
                    raise NodeLost(f"{name} ended with code {process.exitcode}: {words}")
            if time.monotonic() > deadline_s:
                late = ", ".join(sorted(set(self.processes) - ready))
                raise NodeLost(f"{late} did not get ready within {START_S:.0f} s")
            time.sleep(POLL_S)


@contextlib.contextmanager
def local_swarm(  # noqa: PLR0913 - what to serve, then how
    model: Path,
    spans: Sequence[Span],
    *,
    dtype: str | None = "float32",
    threads: int = 1,
    cabled: bool = False,
    invite: Invite | None = None,
    options: Sequence[str] = (),
    own_options: Sequence[Sequence[str]] = (),
) -> Generator[LocalSwarm]:
    """One node process a span, ready to be used; raises NodeLost with a node's own last words.

    A cut graph is served as it was saved: with `dtype` None. `cabled` gives each node a cable of
    its own, to be cut; Unsupported where that cannot be done.
    `invite` founds the swarm; None makes one. `options` are for every node's `serve`,
    `own_options` for each one's.
    """
    options = [*(["--dtype", dtype] if dtype else []), "--threads", str(threads), *options]
    with (
        tempfile.TemporaryDirectory(prefix="shardline-") as folder,
        joined(invite or Invite.new(), listen="127.0.0.1:0") as swarm,
        contextlib.ExitStack() as stack,
    ):
        local = LocalSwarm(swarm, model, Path(folder), options)
        places: Sequence[Place | None] = [None] * len(spans)
        if cabled:
            places = stack.enter_context(local.cabled(len(spans)))
        try:
            own_options = own_options or [()] * len(spans)
            each = zip(_names(len(spans)), spans, places, own_options, strict=True)
            for name, span, place, own in each:
                local.start(name, span, place, own)
            local.wait_until_ready()
            yield local
        finally:
            for name in list(local.processes):
                local.end(name)


def _names(count: int) -> list[str]:
    return [
        NAMES[index] if index < len(NAMES) else f"{NAMES[index % len(NAMES)]}-{index // len(NAMES)}"
        for index in range(count)
    ]


def _serve(
    arguments: list[str], folder: str, name: str, tie: _Tie, first: Sequence[Callable[[], None]]
) -> None:
    """A node's process: `shardline serve`, until told to leave or its parent ends."""
    for prepare in first:
        prepare()
    os.environ["SHARDLINE_HOME"] = folder
    with (Path(folder) / f"{name}.err").open("a") as errors, Path(os.devnull).open("w") as out:
        os.dup2(errors.fileno(), sys.stderr.fileno())
        os.dup2(out.fileno(), sys.stdout.fileno())

    def wait() -> None:
        with contextlib.suppress(EOFError, OSError):
            tie.recv_bytes()  # nothing is ever sent: it ends when the other side does
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()

    from shardline.cli.ending import exit_code
    from shardline.cli.serve import serve

    sys.exit(exit_code(lambda: serve.main(arguments, "shardline serve", standalone_mode=False)))
