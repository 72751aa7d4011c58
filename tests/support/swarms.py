"""Whole swarms for tests: real nodes and real sealed channels on loopback, in this one process."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from anyio.from_thread import start_blocking_portal

from shardline.client import Swarm, joined
from shardline.model import PagedLayer
from shardline.node import Pace, Person, Settings, serve
from shardline.swarm import Identity, Invite

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Sequence
    from pathlib import Path

    from anyio.from_thread import BlockingPortal

    from shardline.core.spans import Span
    from shardline.model import Kind
    from shardline.swarm import NodeRecord

START_S = 60.0
POLL_S = 0.02


class NodesHere:
    """A swarm whose nodes come and go one by one, all in this process."""

    def __init__(self, swarm: Swarm, portal: BlockingPortal, model: Path) -> None:
        self.swarm = swarm
        self._portal = portal
        self._model = model
        self._ends: dict[str, contextlib.ExitStack] = {}

    def start(  # noqa: PLR0913  (options, each with a default)
        self,
        name: str,
        blocks: str = "auto",
        *,
        memory_bytes: int = 2**30,
        dtype: str | None = "float32",
        weights: Kind | None = None,
        cache: type[PagedLayer] = PagedLayer,
        pace: Pace | None = None,
    ) -> None:
        """Start a node; it is READY when this returns."""
        settings = Settings(
            model=str(self._model),
            name=name,
            listen="127.0.0.1:0",
            blocks=blocks,
            dtype=dtype,
            weights=weights,
            cache=cache,
            memory_bytes=memory_bytes,
            pace=pace or Pace(),
        )
        end = contextlib.ExitStack()
        node = _node(settings, self.swarm.invite)
        end.enter_context(self._portal.wrap_async_context_manager(node))
        self._ends[name] = end

    def stop(self, name: str) -> None:
        """Let a node leave in order; raises what ended it."""
        self._ends.pop(name).close()

    def stop_all(self) -> None:
        """Let all nodes leave, the last one first."""
        for name in reversed(list(self._ends)):
            self.stop(name)

    def records(self) -> dict[str, NodeRecord]:
        """What the nodes say of themselves, by name."""
        return {record.name: record for record in self.swarm.nodes_now()}

    def wait_until(
        self, true: Callable[[dict[str, NodeRecord]], bool], within_s: float = START_S
    ) -> dict[str, NodeRecord]:
        """The records once this is true of them; raises AssertionError with the last ones."""
        deadline_s = time.monotonic() + within_s
        while not true(records := self.records()):
            assert time.monotonic() < deadline_s, records
            time.sleep(POLL_S)
        return records


@contextlib.contextmanager
def swarm_here(model: Path) -> Generator[NodesHere]:
    """A caller's view of a swarm without nodes, and the means to start some."""
    with (
        joined(Invite.new(), listen="127.0.0.1:0") as swarm,
        start_blocking_portal("asyncio", name="test-nodes") as portal,
    ):
        nodes = NodesHere(swarm, portal, model)
        try:
            yield nodes
        finally:
            nodes.stop_all()


@contextlib.contextmanager
def nodes_here(
    model: Path, spans: Sequence[Span], *, memory_bytes: int = 2**30, dtype: str | None = "float32"
) -> Generator[Swarm]:
    """A caller's view of a swarm whose nodes serve these spans from this process.

    A cut graph has a dtype of its own: None.
    """
    with swarm_here(model) as nodes:
        for index, span in enumerate(spans):
            nodes.start(f"node-{index}", str(span), memory_bytes=memory_bytes, dtype=dtype)
        yield nodes.swarm


def _nothing(_invite: Invite, _listening: Sequence[str]) -> None:
    """Nobody asks where a test's node listens."""


@contextlib.asynccontextmanager
async def _node(settings: Settings, invite: Invite) -> AsyncGenerator[None]:
    stop, ready = asyncio.Event(), asyncio.Event()
    person = Person(_nothing, lambda _: ready.set(), stop)
    serving = asyncio.create_task(serve(settings, invite, Identity.ephemeral(), person))
    waiting = asyncio.create_task(ready.wait())
    async with asyncio.timeout(START_S):
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not ready.is_set():
        await serving  # raises what went wrong
    try:
        yield
    finally:
        stop.set()
        await serving
