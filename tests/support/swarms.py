"""Whole swarms for tests: real nodes and real sealed channels on loopback, in this one process."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from anyio.from_thread import start_blocking_portal

from shardline.client import Swarm, joined
from shardline.node import Person, Settings, serve
from shardline.swarm import Identity, Invite

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Sequence
    from pathlib import Path

    from shardline.core.spans import Span

START_S = 60.0


@contextlib.contextmanager
def nodes_here(
    model: Path, spans: Sequence[Span], *, memory_bytes: int = 2**30, dtype: str = "float32"
) -> Generator[Swarm]:
    """A caller's view of a swarm whose nodes serve these spans from this process."""
    with (
        joined(Invite.new(), listen="127.0.0.1:0") as swarm,
        start_blocking_portal("asyncio", name="test-nodes") as portal,
        contextlib.ExitStack() as nodes,
    ):
        for index, span in enumerate(spans):
            settings = Settings(
                model=str(model),
                name=f"node-{index}",
                listen="127.0.0.1:0",
                blocks=str(span),
                dtype=dtype,
                memory_bytes=memory_bytes,
            )
            nodes.enter_context(portal.wrap_async_context_manager(_node(settings, swarm.invite)))
        yield swarm


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
