"""A swarm of real node processes on this machine; they end when this process does."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from shardline.client import Swarm, joined
from shardline.core.errors import NodeLost
from shardline.core.spans import Span
from shardline.swarm import Invite, State

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

__all__ = ["NAMES", "LocalSwarm", "local_swarm", "unequal_spans"]

START_S = 120.0
"""How long all nodes together may take to start; a busy machine imports slowly."""
POLL_S = 0.05
LEAVE_S = 10.0
NAMES = ("ada", "ben", "cleo", "dora", "emil", "fay", "gus", "hana", "ivo", "june", "kai", "lea")


@dataclass(frozen=True, slots=True)
class LocalSwarm:
    """The caller's view, and each node's process by name."""

    swarm: Swarm
    processes: dict[str, subprocess.Popen[str]]

    @property
    def invite(self) -> str:
        """For others on this machine."""
        return self.swarm.invite.encode()


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


@contextlib.contextmanager
def local_swarm(
    model: Path, spans: Sequence[Span], *, dtype: str = "float32", threads: int = 1
) -> Generator[LocalSwarm]:
    """One node process a span, ready to be used; raises NodeLost with a node's own last words."""
    with (
        tempfile.TemporaryDirectory(prefix="shardline-") as folder,
        joined(Invite.new(), listen="127.0.0.1:0") as swarm,
        contextlib.ExitStack() as stack,
    ):
        environment = os.environ | {"SHARDLINE_HOME": folder, "OMP_NUM_THREADS": str(threads)}
        environment["SHARDLINE_INVITE"] = swarm.invite.encode()
        processes: dict[str, subprocess.Popen[str]] = {}
        for name, span in zip(_names(len(spans)), spans, strict=True):
            options = ["--name", name, "--blocks", str(span), "--dtype", dtype]
            options += ["--threads", str(threads), "--listen", "127.0.0.1:0"]
            errors = stack.enter_context((Path(folder) / f"{name}.err").open("w+"))
            processes[name] = subprocess.Popen(  # noqa: S603  (our own program)
                [sys.executable, "-m", "shardline.cli", "serve", str(model), *options,
                 "--until-stdin-closes"],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors,
                text=True, env=environment,
            )  # fmt: skip
            stack.callback(_end, processes[name])
        _wait(swarm, processes, Path(folder))
        yield LocalSwarm(swarm, processes)


def _names(count: int) -> list[str]:
    return [
        NAMES[index] if index < len(NAMES) else f"{NAMES[index % len(NAMES)]}-{index // len(NAMES)}"
        for index in range(count)
    ]


def _wait(swarm: Swarm, processes: dict[str, subprocess.Popen[str]], folder: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while True:
        ready = {record.name for record in swarm.nodes_now() if record.state is State.READY}
        if ready >= set(processes):
            return
        for name, process in processes.items():
            if process.poll() is not None:
                words = (folder / f"{name}.err").read_text().strip() or "no word"
                raise NodeLost(f"{name} ended with code {process.returncode}: {words}")
        if time.monotonic() > deadline_s:
            late = ", ".join(sorted(set(processes) - ready))
            raise NodeLost(f"{late} did not get ready within {START_S:.0f} s")
        time.sleep(POLL_S)


def _end(process: subprocess.Popen[str]) -> None:
    """Ask by closing its input, insist after a while."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(LEAVE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
