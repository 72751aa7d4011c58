"""Stages of a graph in memory, as an engine runs them: a step is one pure run, and nothing stays.

What a step may take beside the weights is bounded: before a stage runs it is followed on shapes,
once for each set of shapes, and a step that would take more than there is gets CacheFull.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from shardline.core.errors import CacheFull, PeerFault, ShardlineError, StepFailed
from shardline.core.units import format_bytes
from shardline.model.crossing import Returned
from shardline.model.graph.crossing import StageCrossing
from shardline.model.graph.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import Cache

    from shardline.core.spans import Span
    from shardline.model.graph.kept import GraphPlan
    from shardline.model.graph.signature import Values
    from shardline.model.pages import Pages

__all__ = ["LoadedStages", "load_stages", "stage_rate"]

SHAPES_KEPT: Final = 256
"""Sets of shapes whose need is remembered; then all are forgotten."""
_META: Final = torch.device("meta")


class _Needs:
    """How much memory runs of one stage take, by the shapes and strides of their inputs."""

    def __init__(self, stage: Stage, example: Values, example_bytes: int) -> None:
        self._example = example
        self._example_bytes = example_bytes
        self._known: dict[Any, int] = {}
        self._followed: Stage | None = Stage.of(stage.program, stage.tensors, _META)
        try:
            self._followed.peak_bytes(example)
        except (StepFailed, PeerFault):
            self._followed = None  # its ops cannot do without values

    def of(self, given: Values) -> int:
        """Bytes beside the stage's own tensors; raises StepFailed if it cannot run on these.

        Where nothing can be followed on shapes, as much as in the example for each time that an
        input is as large as there.
        """
        key = tuple(
            (name, (value.shape, value.stride()) if isinstance(value, torch.Tensor) else value)
            for name, value in given.items()
        )
        if key not in self._known:
            if len(self._known) >= SHAPES_KEPT:
                self._known.clear()
            self._known[key] = self._asked(given)
        return self._known[key]

    def _asked(self, given: Values) -> int:
        if self._followed is not None:
            on_shapes = {
                name: torch.empty_like(value, device=_META)
                if isinstance(value, torch.Tensor)
                else value
                for name, value in given.items()
            }
            return self._followed.peak_bytes(on_shapes)
        times = 1
        for name, value in given.items():
            like = self._example[name]
            if isinstance(value, torch.Tensor) and isinstance(like, torch.Tensor):
                times = max(times, -(-value.numel() // max(1, like.numel())))
        return times * self._example_bytes


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """A stage, and what its runs need."""

    stage: Stage
    needs: _Needs


class LoadedStages:
    """Stages [start, stop) of a graph, ready to run; made by `load_stages`."""

    def __init__(
        self,
        plan: GraphPlan,
        span: Span,
        stages: Mapping[int, _Held],
        room_bytes: int | None = None,
    ) -> None:
        self.plan = plan
        self.span = span
        self.stages = dict(stages)
        self.room_bytes = room_bytes
        """What a step may take beside the weights; None: whatever it takes."""

    def part(self, span: Span) -> LoadedStages:
        """The same stages seen as a span within this one; the weights are shared."""
        held = {at: self.stages[at] for at in range(span.start, span.stop)}
        return LoadedStages(self.plan, span, held, self.room_bytes)

    def run(self, crossing: StageCrossing) -> StageCrossing | Returned:
        """One step through these stages: what the next one takes, or the results by name.

        Raises PeerFault for values that are not those of this graph, CacheFull for a step that
        would take too much memory, StepFailed when an op fails.
        """
        if crossing.start != self.span.start:
            raise PeerFault(f"a crossing to stage {crossing.start}, these are {self.span}")
        if set(crossing.values) != set(self.plan.needs(crossing.start)):
            raise PeerFault(f"a crossing to stage {crossing.start} with other values than it needs")
        values = crossing.values
        for at, held in self.stages.items():
            asked = {value.name: values[value.name] for value in held.stage.program.inputs}
            try:
                self._check_room(at, asked)
                made = held.stage.run(_on(held.stage.device, asked))
            except StepFailed as error:
                raise StepFailed(f"stage {at}: {error}") from error
            values = {
                name: made[name] if name in made else values[name]
                for name in self.plan.needs(at + 1)
            }
        if self.span.stop == self.plan.blocks:
            return Returned(values)
        return StageCrossing(self.span.stop, values)

    def run_together(
        self, steps: Sequence[tuple[StageCrossing, Cache]]
    ) -> list[StageCrossing | Returned | ShardlineError]:
        """Each session's step, one after the other; what goes wrong with one is its result."""
        found: list[StageCrossing | Returned | ShardlineError] = []
        for crossing, _ in steps:
            try:
                found.append(self.run(crossing))
            except ShardlineError as error:
                found.append(error)
        return found

    def pieces(self, crossing: StageCrossing, cache: Cache, tokens: int) -> list[StageCrossing]:
        """The step itself: it is never cut."""
        del cache, tokens
        return [crossing]

    def joined(
        self, crossing: StageCrossing, parts: Sequence[StageCrossing | Returned]
    ) -> StageCrossing | Returned:
        """What its one piece gave."""
        del crossing
        (whole,) = parts
        return whole

    def new_cache(self, tokens: int, shared: Sequence[Pages] = ()) -> None:
        """Nothing: a stage keeps nothing from step to step."""

    def pages(self, cache: Cache, first: int, stop: int) -> None:
        """None: there is nothing to share."""

    def truncate(self, cache: Cache, tokens: int) -> None:
        """There is nothing to forget."""

    def check(self, cache: Cache, tokens: int) -> None:
        """There is nothing that could be out of order."""

    def _check_room(self, at: int, asked: Values) -> None:
        if self.room_bytes is None:
            return
        needed_bytes = self.stages[at].needs.of(asked)
        if needed_bytes > self.room_bytes:
            raise CacheFull(
                f"stage {at} needs {format_bytes(needed_bytes)} for the values of this step, and "
                f"{format_bytes(self.room_bytes)} are free for them: give it smaller batches"
            )


def load_stages(plan: GraphPlan, span: Span, device: torch.device) -> LoadedStages:
    """Read these stages, and no others, from the graph's folder.

    Raises BlocksOutOfRange, NoSuchModel or CorruptWeights, also for files other than those that
    the graph was saved with; Unsupported for an op that no stage may use.
    """
    plan.check(span)
    held: dict[int, _Held] = {}
    for at in range(span.start, span.stop):
        stage = plan.load(at, device)
        names = {value.name for value in stage.program.inputs}
        example = plan.example(names, _META)
        held[at] = _Held(stage, _Needs(stage, example, plan.stages[at].peak_bytes))
    return LoadedStages(plan, span, held)


def stage_rate(loaded: LoadedStages, *, budget_s: float) -> float:
    """Steps like the example's a second through a stage of the graph's mean work.

    Measured on these stages with inputs of zeros, so that it tells of the machine whichever stages
    it holds. Takes about the budget, or one step where that is longer. Raises StepFailed for ops
    that make no sense of zeros.
    """
    plan, span = loaded.plan, loaded.span
    device = next(iter(loaded.stages.values())).stage.device
    step = StageCrossing(span.start, plan.example(plan.needs(span.start), device))
    until_s = time.perf_counter() + budget_s
    seconds: list[float] = []
    while not seconds or time.perf_counter() < until_s:
        started_s = time.perf_counter()
        loaded.run(step)
        seconds.append(time.perf_counter() - started_s)
    work_s = [note.work_s for note in plan.stages]
    share = len(work_s) * sum(work_s[span.start : span.stop]) / max(sum(work_s), 1e-30)
    return share / max(min(seconds), 1e-9)


def _on(device: torch.device, values: Values) -> Values:
    return {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in values.items()
    }
