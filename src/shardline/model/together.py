"""How a span runs steps of several sessions: merged where that gives the same, else one by one.

Which steps can be merged is found by trying: the first of a kind are run both ways, and the lone
results are the ones that count. The same holds for cutting long steps, which asks for no more than
merging does.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import torch

from shardline.core.errors import PeerFault, ShardlineError, StepFailed
from shardline.model.cutting import cut
from shardline.model.merging import Cannot, Kind, Merged, agree, kind_of
from shardline.model.taping import RunsMerged, Tapes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardline.model.caches import SpanCache
    from shardline.model.cross import SessionCache
    from shardline.model.crossing import Crossing, Returned

    Found = Crossing | Returned | ShardlineError

__all__ = ["RunsOne", "Together"]

KINDS_MAX: Final = 64
"""Kinds of steps that are tried; callers choose them, so they are counted."""


@runtime_checkable
class RunsOne(RunsMerged, Protocol):
    """A span, as `LoadedSpan` is: a step alone, and what it is made of."""

    def admit(self, crossing: Crossing) -> None:
        """Raise PeerFault for what does not fit this span."""
        ...

    def run(self, crossing: Crossing, cache: SessionCache | None) -> Crossing | Returned:
        """One step, alone."""
        ...


class Together:
    """Steps of several sessions on one span, and what was learned of merging them."""

    def __init__(self, span: RunsOne) -> None:
        self._span = span
        self._tapes = Tapes(span)
        self._merges: dict[tuple[Kind, bool], bool] = {}
        """Kinds of steps (the flag: of more than one token) that were tried, and how it went."""

    @property
    def tried(self) -> list[bool]:
        """For each kind of steps that came together: whether they are merged."""
        return list(self._merges.values())

    @torch.no_grad()
    def run(self, steps: Sequence[tuple[Crossing, SpanCache]]) -> list[Found]:
        """A step of each of several sessions, each with its own cache; in their order."""
        done: dict[int, Found] = {}
        kinds: dict[Kind, list[int]] = {}
        for index, (crossing, _) in enumerate(steps):
            try:
                self._span.admit(crossing)
                kinds.setdefault(kind_of(crossing), []).append(index)
            except PeerFault as fault:
                done[index] = fault
        for kind, indices in kinds.items():
            found = self._of_one_kind(kind, [steps[index] for index in indices])
            done.update(zip(indices, found, strict=True))
        return [done[index] for index in range(len(steps))]

    def pieces(self, crossing: Crossing, cache: SpanCache, tokens: int) -> list[Crossing]:
        """The step in pieces of at most so many tokens; whole where nobody knows how to cut it."""
        if crossing.tokens <= tokens or not cache.keeps_all:
            return [crossing]
        try:
            return cut(crossing, cache.tokens, tokens)
        except Cannot:
            return [crossing]

    def _of_one_kind(self, kind: Kind, steps: Sequence[tuple[Crossing, SpanCache]]) -> list[Found]:
        longer = any(crossing.tokens > 1 for crossing, _ in steps)
        merges = self._merges.get((kind, longer))
        if len(steps) == 1:
            return self._tapes.run(kind, steps, lambda: self._each_alone(steps))
        if merges is False:
            return self._each_alone(steps)
        if merges:
            return self._tapes.run(kind, steps, lambda: self._at_once(steps))
        tried = [(crossing, copy.deepcopy(cache)) for crossing, cache in steps]
        alone = self._each_alone(steps)
        if len(self._merges) < KINDS_MAX and not any(isinstance(x, ShardlineError) for x in alone):
            self._merges[kind, longer] = self._agrees(tried, alone)
        return alone

    def _each_alone(self, steps: Sequence[tuple[Crossing, SpanCache]]) -> list[Found]:
        return [self.alone(*step) for step in steps]

    def _at_once(self, steps: Sequence[tuple[Crossing, SpanCache]]) -> list[Found]:
        try:
            return self._merged(steps)
        except Cannot:
            return self._each_alone(steps)
        except StepFailed as failure:
            return [failure] * len(steps)

    def alone(self, crossing: Crossing, cache: SessionCache) -> Found:
        """A session's step by itself; what goes wrong is its result."""
        try:
            return self._span.run(crossing, cache)
        except ShardlineError as error:
            return error

    def _agrees(self, steps: Sequence[tuple[Crossing, SpanCache]], alone: Sequence[Found]) -> bool:
        try:
            merged = self._merged(steps)
        except (Cannot, StepFailed):
            return False
        return all(
            not isinstance(one, ShardlineError)
            and not isinstance(other, ShardlineError)
            and agree(one.to_tree(), other.to_tree())
            for one, other in zip(alone, merged, strict=True)
        )

    def _merged(self, steps: Sequence[tuple[Crossing, SpanCache]]) -> list[Found]:
        """Raises Cannot before anything is done, StepFailed when all caches are spoilt."""
        merged = Merged.of(steps)
        output, carried = self._span.forward(merged.crossing, merged.handing, merged)
        found: list[Found] = []
        split = zip(merged.pieces, steps, merged.split((output, carried)), strict=True)
        for piece, (crossing, cache), (own, own_carried) in split:
            onward = self._span.onward(crossing, own, own_carried, cache)
            found.append(onward if piece.failed is None else piece.failed)
        return found
