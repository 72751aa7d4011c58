"""One call of a job over a swarm: nodes of this machine, or those of an invite."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shardline.cli.generate import chain_rows
from shardline.cli.news import tell
from shardline.core.errors import BadInput, ShardlineError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from shardline.cli.progress import Progress
    from shardline.cli.run_jobs import Job
    from shardline.client import Swarm
    from shardline.swarm import Invite, NodeRecord

__all__ = ["Went", "blaming", "calls"]

_FAULTS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError)
"""What a model may raise on inputs that it does not take."""


@dataclass(frozen=True, slots=True)
class Went:
    """What came back, from where, and how long it took."""

    output: Any
    chain: list[dict[str, Any]]
    rows: tuple[int, ...]
    """Of each part of the batch; empty where it was run whole."""
    wall_s: float
    moved_bytes: int

    def to_json(self, job: Job) -> dict[str, Any]:
        """As machines read it, without the output."""
        return {
            "model": job.name,
            "route": job.route,
            "chain": self.chain,
            "rows": list(self.rows),
            "seconds": self.wall_s,
            "moved_bytes": self.moved_bytes,
        }

    def way(self) -> str:
        """Through which nodes, for a person."""
        return " → ".join(
            f"{hop['part'] + ' ' if 'part' in hop else ''}"
            f"{hop['node']} {hop['start']}:{hop['stop']}"
            for hop in self.chain
        )


def calls(
    job: Job,
    inputs: Sequence[dict[str, Any]],
    invite: Invite | None,
    progress: Progress,
    batch: int | None = None,
) -> list[Went]:
    """The job's call on each of these inputs, on the invite's swarm or on nodes started for it.

    `batch` is the most rows that travel together.
    """
    progress.say("joining the swarm" if invite else f"starting {len(job.spans)} nodes")
    with _serving(job, invite) as swarm:
        progress.say("running")
        model: Any = swarm.model_now(str(job.folder), tell=tell)
        model.part_rows = batch
        return [_call(model, job, kwargs, swarm.nodes_now()) for kwargs in inputs]


@contextlib.contextmanager
def _serving(job: Job, invite: Invite | None) -> Generator[Swarm]:
    """A swarm that serves this: the one of the invite, or nodes that are started here."""
    if invite is not None:
        from shardline.cli.options import address_book
        from shardline.client import joined

        with joined(invite, book=address_book()) as swarm:
            yield swarm
        return
    from shardline.cli.local import local_swarm

    dtype = "float32" if job.route == "chain" else None
    with local_swarm(job.folder, job.spans, dtype=dtype) as local:
        yield local.swarm


@contextlib.contextmanager
def blaming(job: Job) -> Generator[None]:
    """What a model's own code raises here, on what a person gave, as BadInput in its words."""
    try:
        yield
    except ShardlineError:
        raise
    except _FAULTS as error:
        said = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise BadInput(f"{job.name} fails on these inputs: {said}") from error


def _call(model: Any, job: Job, kwargs: dict[str, Any], nodes: list[NodeRecord]) -> Went:  # noqa: ANN401  (a SwarmModel)
    started_s = time.perf_counter()
    with blaming(job):
        output = model(*job.args, **kwargs)
    passed = model.passed
    return Went(
        output,
        chain_rows(passed.chain, nodes),
        passed.rows if len(passed.rows) > 1 else (),
        time.perf_counter() - started_s,
        passed.moved_bytes,
    )
