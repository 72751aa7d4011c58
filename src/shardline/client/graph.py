"""A module whose stages are on the swarm: called as the module is, in plain Python types.

A part of the batch is a session of one step: what is needed travels from stage to stage, nothing is
kept on nodes, and a node that dies costs that step only. Several parts are on their way at the same
time, so that all nodes work; see `batches`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Never, cast

import torch

from shardline.client.batches import on_nodes, parts_of, rows_of
from shardline.client.model import SwarmModel
from shardline.client.runner import Runner
from shardline.client.times import Passed
from shardline.codec import unpack
from shardline.core.errors import BadInput, PeerFault, Unsupported
from shardline.model import Returned

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyio.from_thread import BlockingPortal

    from shardline.client.session import RemoteSession
    from shardline.client.sessions import Sessions
    from shardline.core.segments import Segment
    from shardline.model import GraphPlan, Signature, Values

__all__ = ["GraphRunner", "SwarmGraph"]


class GraphRunner(Runner):
    """Runs a graph's stages on the swarm; any threads may use it at once."""

    def __init__(
        self,
        plan: GraphPlan,
        signature: Signature,
        portal: BlockingPortal,
        sessions: Sessions,
        begin: Callable[[int], RemoteSession],
    ) -> None:
        super().__init__(portal, sessions, begin=begin, tokens=0)
        self._plan = plan
        self._rows = signature.rows

    def run(self, given: Values) -> Values:
        """One step through all stages, as a session of its own; raises as a call of Runner does."""
        crossing = self._plan.crossing(given)
        session, _ = self._portal.call(self._open, 0, crossing.batch, crossing.tokens, ())
        try:
            (returned,) = self._steps([(session, 0, cast("Any", crossing))])
            return self._plan.results(returned)
        finally:
            self._portal.call(self._close, session)

    def _read(self, sent: Any, segments: Sequence[Segment]) -> Returned:  # noqa: ANN401  (a StageCrossing)
        """What came back, if the graph gives such; raises PeerFault if not."""
        returned = Returned.from_tree(unpack(segments))
        self._check_rows(sent.values, self._plan.results(returned))
        return returned

    def _check_rows(self, given: Values, results: Values) -> None:
        rows = {given[name].shape[at] for name, at in self._rows.items() if name in given}
        for name, at in self._rows.items():
            if name not in results:
                continue
            shape = results[name].shape if isinstance(results[name], torch.Tensor) else ()
            if len(shape) <= at or any(count and shape[at] % count for count in rows):
                raise PeerFault(f"{name}: {tuple(shape)} came back for {max(rows)} rows")


class SwarmGraph(SwarmModel):
    """A module over the swarm. It keeps no cache, so there is nothing to generate with."""

    def __init__(self, plan: GraphPlan, signature: Signature, runner: GraphRunner) -> None:
        self._runner: GraphRunner = runner
        self.graph = plan
        self.signature = signature
        self.part_rows: int | None = None
        """The most rows that travel together; None leaves it to `batches`."""
        self.last = None
        self.passed: Passed | None = None
        """How the last call went."""
        self.moved_bytes = 0
        """What crossed links in all calls so far."""

    @property
    def dtype(self) -> torch.dtype:
        """Of what it takes: the first of its inputs that is no whole number."""
        given = self.graph.example(self.graph.needs(0), torch.device("meta")).values()
        kinds = [value.dtype for value in given if isinstance(value, torch.Tensor)]
        return next((kind for kind in kinds if kind.is_floating_point), torch.float32)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  (what the module returns)
        """The module's own forward, in plain tuples, lists and dictionaries; see `values`."""
        return self.signature.rebuild(self.values(*args, **kwargs))

    def values(self, *args: Any, **kwargs: Any) -> Values:
        """The same by name, with what went in.

        Raises BadInput for a call that was not captured, ChainBroken when a node fails and nobody
        takes over.
        """
        started_s = time.perf_counter()
        given = self.signature.bind(*args, **kwargs)
        parts, sizes = self._parts(given)
        self._runner.steps.clear()
        found = self.signature.joined(on_nodes(self._runner.run, parts, self.graph.blocks))
        self.passed = Passed(
            self._runner.chain,
            tuple(self._runner.steps),
            sizes,
            time.perf_counter() - started_s,
        )
        self.moved_bytes += self.passed.moved_bytes
        return given | found

    def generate(self, *_: object, **__: object) -> Never:
        """Not to be had; raises Unsupported."""
        raise Unsupported(f"{self.graph.name} goes as a graph, which keeps no cache to generate by")

    stream = generate

    def _parts(self, given: Values) -> tuple[list[Values], tuple[int, ...]]:
        """The call in parts, and the rows of each; whole if it was not captured for such sizes."""
        rows = self.signature.batch(given)
        sizes = parts_of(rows, self.graph.blocks, self.part_rows)
        if len(sizes) > 1:
            try:
                return [self.signature.part(given, *at) for at in rows_of(sizes)], sizes
            except BadInput:
                pass
        return [given], (rows,)
