"""A span's work on lone tokens, written down once and then done again without the blocks' Python.

A block is some thirty small operations, and what Python adds to each of them is as long as the
operation: a fifth of a lone token's time (decision 0034). So the first step of a kind is done three
times: as ever, then while what torch and our kernels do is written down, then from what is written.
Where all three give the same bits, later steps of the kind are done from what is written, for each
number of rows anew. What hangs on a session, its keys and values, is asked of its cache each time.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import torch

from shardline.core.errors import ShardlineError
from shardline.model.caches import SpanCache
from shardline.model.crossing import CACHE, Call, Crossing, Returned
from shardline.model.merging import MASK_RANK, Cannot, Handing, Merged, Piece, flat
from shardline.model.recording import Arena, Recording, repeat
from shardline.model.trees import Leaf, Path, Tree, get, leaves, map_leaves

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shardline.kernels import Attention, Form, Runs
    from shardline.model.cross import SessionCache
    from shardline.model.merging import Kind, Noted
    from shardline.model.pages import KeysValues
    from shardline.model.recording import Calls

    Step = tuple[Crossing, SpanCache]
    Found = Crossing | Returned | ShardlineError

__all__ = ["RunsMerged", "Tapes"]

KINDS_MAX: Final = 64
"""Kinds of steps that are tried; callers choose them, so they are counted."""
ROWS_MAX: Final = 64
"""Of one step. What more need would stay in the arena for good, and Python is little beside it."""
TAPES_MAX: Final = 64
"""The oldest goes; each is some hundred kilobytes."""

_log = logging.getLogger(__name__)


@runtime_checkable
class RunsMerged(Protocol):
    """A span, as `LoadedSpan` is."""

    def forward(
        self, crossing: Crossing, cache: Leaf, merged: Merged | None = None
    ) -> tuple[Tree, tuple[torch.Tensor, ...]]:
        """The last block's whole output, and what it hands on."""
        ...

    def onward(
        self,
        crossing: Crossing,
        output: Tree,
        carried: tuple[torch.Tensor, ...],
        cache: SessionCache | None,
    ) -> Crossing | Returned:
        """What the next span takes or, after the last block, its output."""
        ...


class Tapes:
    """What was written down of one span; on one thread."""

    def __init__(self, span: RunsMerged) -> None:
        self._span = span
        self._arena = Arena()
        self._kinds: dict[Kind, bool] = {}
        """Whether steps of a kind can be done again."""
        self._tapes: dict[tuple[Kind, int, int], _Tape | None] = {}
        """By kind, rows, and threads."""

    @property
    def kinds(self) -> list[bool]:
        """For each kind of lone tokens that came: whether they are done from what is written."""
        return list(self._kinds.values())

    def run(
        self, kind: Kind, steps: Sequence[Step], ordinary: Callable[[], list[Found]]
    ) -> list[Found]:
        """A step of each session, all of one kind; `ordinary` does it as ever."""
        rows = sum(crossing.batch for crossing, _ in steps)
        if self._kinds.get(kind) is False or rows > ROWS_MAX or not all(map(_is_lone, steps)):
            return ordinary()
        key = kind, rows, torch.get_num_threads()
        known = kind in self._kinds
        if known:
            found = self._again(key, steps)
            return ordinary() if found is None else found
        if len(self._kinds) == KINDS_MAX or not all(map(_can_tell, steps)):
            return ordinary()
        before = [cache.tokens for _, cache in steps]
        found = ordinary()
        if not any(isinstance(one, ShardlineError) for one in found):
            self._kinds[kind] = self._agrees(key, steps, found, before)
            if not self._kinds[kind]:
                _rewind(steps, before)
                found = ordinary()
        return found

    def _agrees(
        self,
        key: tuple[Kind, int, int],
        steps: Sequence[Step],
        wanted: Sequence[Found],
        before: Sequence[int],
    ) -> bool:
        """Whether the same comes when it is written down, and when it is done again."""
        for _ in ("written", "again"):
            _rewind(steps, before)
            found = self._again(key, steps)
            if found is None or not all(map(_same, wanted, found)):
                return False
        return True

    def _again(self, key: tuple[Kind, int, int], steps: Sequence[Step]) -> list[Found] | None:
        """From what is written, or writing it; None, and caches as they were, if that cannot be."""
        before = [cache.tokens for _, cache in steps]
        try:
            if key in self._tapes:
                tape = self._tapes[key]
                return None if tape is None else tape.play(self._span, steps)
            return self._write(key, steps)
        except (Cannot, ShardlineError, MemoryError, OSError) as error:
            _log.debug("a step was not done from what is written: %s", error)
            _rewind(steps, before)
            return None

    def _write(self, key: tuple[Kind, int, int], steps: Sequence[Step]) -> list[Found]:
        """Raises Cannot where it cannot be done again, and what the span does."""
        held = self._arena.held
        tape, found = self._written(steps)
        if self._arena.held > held:  # a module keeps what later steps write over
            tape = "memory that stays held"
        if len(self._tapes) >= TAPES_MAX:
            del self._tapes[next(iter(self._tapes))]
        self._tapes[key] = None if isinstance(tape, str) else tape
        if isinstance(tape, str):
            raise Cannot(tape)
        return found

    def _written(self, steps: Sequence[Step]) -> tuple[_Tape | str, list[Found]]:
        """What was written down, or why it cannot be done again; and what came out."""
        merged = Merged.of(steps)
        if any(mask is not None for masks in merged.masks for mask in masks):
            raise Cannot("a mask")
        crossing = merged.crossing
        inputs: dict[tuple[int, Path], torch.Tensor] = {}
        merged.crossing = _mapped(
            crossing, lambda at, path, x: inputs.setdefault((at, path), self._arena.copy(x))
        )
        noted: list[Noted] = []
        merged.handing.noted = noted
        with Recording(self._arena) as recording:
            output, carried = self._span.forward(merged.crossing, merged.handing, merged)
        failed = next((p.failed for p in merged.pieces if p.failed is not None), None)
        if failed is not None:
            raise failed
        merged.split((output, carried))  # else it is no session's
        if recording.refused is not None:
            return recording.refused, []
        attentions = [(at, again, new) for at, again, new in noted if again is not None]
        if not len(attentions) == len(noted) == merged.handing.updates:
            return "attention in more than one way, or not by ours", []
        alias = self._arena.alias
        tape = _Tape(
            calls=recording.calls,
            inputs=[(*at, alias(x)) for at, x in inputs.items()],
            absent=_absent(crossing),
            attentions=[(at, again, (alias(k), alias(v))) for at, again, (k, v) in attentions],
            output=map_leaves(output, lambda _, x: _kept(alias, x)),
            carried=tuple(map(alias, carried)),
        )
        return tape, tape.told(self._span, steps, merged.pieces)


@dataclass(frozen=True, slots=True)
class _Tape:
    """One number of rows' work; it holds its memory, but for what the arena does."""

    calls: Calls
    inputs: list[tuple[int, Path, torch.Tensor]]
    """By call (-1: what is carried) and place."""
    absent: list[tuple[int, Path]]
    """Where nothing was given, and a mask might be."""
    attentions: list[tuple[int, Attention, KeysValues]]
    output: Tree
    carried: tuple[torch.Tensor, ...]

    def play(self, span: RunsMerged, steps: Sequence[Step]) -> list[Found]:
        """Raises Cannot, and CacheFull's like, once caches may have changed."""
        pieces: list[Piece] = []
        first = 0
        for crossing, cache in steps:
            pieces.append(Piece(first, crossing.batch, 1, cache))
            first = pieces[-1].stop
        self._take(steps, pieces)
        for layer, again, fresh in self.attentions:
            again.ask([(piece.first, _runs(piece, layer, fresh, again.form)) for piece in pieces])
        try:
            done = repeat(self.calls)
        except (RuntimeError, ValueError, LookupError) as error:  # a session's numbers, to torch
            raise Cannot(str(error)) from error
        if not done:
            raise Cannot("a kernel failed")
        return self.told(span, steps, pieces)

    def _take(self, steps: Sequence[Step], pieces: Sequence[Piece]) -> None:
        """Put what the sessions send to its place."""
        trees = [_trees(crossing) for crossing, _ in steps]
        if any(get(tree[at], path) is not None for at, path in self.absent for tree in trees):
            raise Cannot("a mask")
        for at, path, place in self.inputs:
            each = [
                flat(get(tree[at], path), piece) for tree, piece in zip(trees, pieces, strict=True)
            ]
            if len(each) == 1:
                place.copy_(each[0])
            else:
                torch.cat(each, dim=min(1, place.dim() - 1), out=place)

    def told(self, span: RunsMerged, steps: Sequence[Step], pieces: Sequence[Piece]) -> list[Found]:
        """What came out, for each session, in memory of its own."""

        def own(piece: Piece, tree: Tree) -> Tree:
            return map_leaves(
                tree, lambda _, x: piece.rows_of(x).clone() if torch.is_tensor(x) else x
            )

        return [
            span.onward(crossing, own(piece, self.output), own(piece, self.carried), cache)
            for piece, (crossing, cache) in zip(pieces, steps, strict=True)
        ]


def _is_lone(step: Step) -> bool:
    crossing, cache = step
    return crossing.tokens == 1 and not crossing.kept and type(cache) is SpanCache


def _can_tell(step: Step) -> bool:
    """Whether this step can say of all of its kind what can be done with them."""
    crossing, cache = step
    brought = (leaf for tree in _trees(crossing)[:-1] for _, leaf in leaves(tree))
    masked = any(isinstance(leaf, torch.Tensor) and leaf.dim() == MASK_RANK for leaf in brought)
    return cache.keeps_all and not masked


def _trees(crossing: Crossing) -> list[Tree]:
    """What a crossing brings: each call's, and at last what is carried."""
    return [*((call.args, call.kwargs) for call in crossing.calls), crossing.carried]


def _absent(crossing: Crossing) -> list[tuple[int, Path]]:
    return [
        (at, path)
        for at, tree in enumerate(_trees(crossing))
        for path, leaf in leaves(tree)
        if leaf is None
    ]


def _mapped(
    crossing: Crossing, change: Callable[[int, Path, torch.Tensor], torch.Tensor]
) -> Crossing:
    """The same crossing with its tensors changed, which are named as in `_trees`."""
    count = len(crossing.calls)
    *calls, carried = (
        map_leaves(
            tree,
            lambda path, x, at=at: change(at, path, x) if isinstance(x, torch.Tensor) else x,
        )
        for at, tree in enumerate(_trees(crossing))
    )
    assert len(calls) == count
    return Crossing(crossing.start, carried, tuple(Call(*call) for call in calls), crossing.order)


def _kept(alias: Callable[[torch.Tensor], torch.Tensor], leaf: Leaf) -> Leaf:
    if isinstance(leaf, torch.Tensor):
        return alias(leaf)
    return CACHE if isinstance(leaf, Handing) else leaf


def _runs(piece: Piece, layer: int, fresh: KeysValues, form: Form) -> Runs:
    try:
        found = piece.runs(layer, fresh, form)
    except (RuntimeError, ValueError) as error:
        raise Cannot(str(error)) from error
    if found is None:
        raise Cannot("a layer that does not keep them as they are")
    return found


def _rewind(steps: Sequence[Step], tokens: Sequence[int]) -> None:
    for (_, cache), held in zip(steps, tokens, strict=True):
        cache.truncate(held)


def _same(one: Found, other: Found) -> bool:
    """Whether two results are the same to the bit."""
    if isinstance(one, ShardlineError) or isinstance(other, ShardlineError):
        return False
    mine, others = leaves(one.to_tree()), leaves(other.to_tree())
    if [path for path, _ in mine] != [path for path, _ in others]:
        return False
    return all(
        torch.equal(_bits(a), _bits(b)) if isinstance(a, torch.Tensor) else a == b
        for (_, a), (_, b) in zip(mine, others, strict=True)
        if isinstance(a, torch.Tensor) == isinstance(b, torch.Tensor)
    )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)
