"""Steps of several sessions as one: linear layers see all their tokens, attention each its own.

The blocks' own code runs once, on a single row of all tokens, so that each weight is read once a
step. Two things are put in its way: a cache that hands every session's keys and values to that
session's own cache, and an attention that goes session by session (`attending.py`). Which
architectures can be run so is not listed anywhere: side inputs are joined by their shapes, and
`LoadedSpan` compares the first merged step of each kind with the same steps alone.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch

from shardline.codec import Marker
from shardline.core.errors import StepFailed
from shardline.model.caches import SpanCache
from shardline.model.crossing import Call, Crossing
from shardline.model.recording import aside
from shardline.model.trees import Leaf, Path, Tree, get, leaves, map_leaves

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from transformers import Cache

    from shardline.kernels import Attention, Form, Runs
    from shardline.model.pages import KeysValues

__all__ = [
    "MASK_RANK",
    "Cannot",
    "Given",
    "Handing",
    "Kind",
    "Merged",
    "Noted",
    "agree",
    "flat",
    "is_tokenwise",
    "kind_of",
    "parts",
]

MASK_RANK: Final = 4
"""Rows, heads, queries, keys."""
TOLERANCE: Final = {torch.float32: 1e-3, torch.float64: 1e-6}
"""The mean difference of what comes out, over its mean size; wrong merging is wrong by far more."""
TOLERANCE_16: Final = 0.05

Noted = tuple[int, "Attention | None", "KeysValues"]
"""A layer, how its lone tokens attend (None: not so that it can be done again), and their new keys
and values."""
Kind = tuple[Any, ...]
"""Steps of one kind may be merged with each other."""


class Cannot(Exception):
    """These steps cannot be one."""


@dataclass(slots=True)
class Piece:
    """One session's part of a merged step: tokens [first, first + rows x tokens) of its one row."""

    first: int
    rows: int
    tokens: int
    cache: Cache
    failed: StepFailed | None = None

    @property
    def stop(self) -> int:
        """Where the next piece begins."""
        return self.first + self.rows * self.tokens

    def of(self, own: torch.Tensor) -> torch.Tensor:
        """(1, heads, own tokens, width) -> (rows, heads, tokens, width)."""
        if self.rows == 1:
            return own
        _, heads, _, width = own.shape
        return own.reshape(heads, self.rows, self.tokens, width).transpose(0, 1)

    def runs(self, layer: int, fresh: KeysValues, form: Form) -> Runs | None:
        """Where its keys and values lie, with room for one more; None if not as they are.

        Raises ValueError.
        """
        held = self.cache.paged(layer) if isinstance(self.cache, SpanCache) else None
        return None if held is None else held.reached(self.rows, fresh, form)

    @contextlib.contextmanager
    def failing_alone(self) -> Generator[None]:
        """What is wrong with one session's masks or cache is no other's fault."""
        try:
            yield
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            reason = " ".join(str(error).split())[:200]
            self.failed = StepFailed(f"attention failed: {reason}")

    def rows_of(self, flat: torch.Tensor) -> torch.Tensor:
        """(1, all tokens, ...) or (all tokens, ...) -> (rows, tokens, ...) or (own tokens, ...)."""
        if flat.shape[0] == 1:
            own = flat[0, self.first : self.stop]
            return own.reshape(self.rows, self.tokens, *flat.shape[2:])
        return flat[self.first : self.stop]


class Given:
    """Keys and values of all sessions' new tokens, (1, heads, all tokens, width), for one layer."""

    def __init__(
        self,
        pieces: Sequence[Piece],
        states: KeysValues,
        layer: int,
        rest: tuple[Any, Any],
        noted: list[Noted] | None,
    ) -> None:
        self.fresh = states
        self._noted = noted
        self._form = states[0].shape[1], (states[0].shape[-1], states[1].shape[-1])
        self._layer = layer
        self._pieces = pieces
        self._rest = rest

    def states(self, index: int) -> KeysValues:
        """Put what is a session's to its layer, and give all that it has of it.

        What a layer has to make for that is there for one session at a time.
        """
        args, kwargs = self._rest
        cache: Any = self._pieces[index].cache
        return cache.update(*self._parts[index], self._layer, *args, **kwargs)

    def runs(self, index: int) -> Runs | None:
        """Where a session's keys and values lie, with room for a new one; None if not as they are.

        Raises ValueError.
        """
        with aside() if self._noted is not None else contextlib.nullcontext():  # its pages stay
            return self._pieces[index].runs(self._layer, self.fresh, self._form)

    def note(self, attention: Attention | None) -> None:
        """How all sessions' tokens attend here, for who has it done again; None if in many ways."""
        if self._noted is not None:
            self._noted.append((self._layer, attention, self.fresh))

    @functools.cached_property
    def _parts(self) -> list[KeysValues]:
        """Each session's."""
        keys, values = (parts(self._pieces, states) for states in self.fresh)
        return list(zip(keys, values, strict=True))


class Handing:
    """Stands for the cache in a merged step; it can do nothing but take keys and values.

    Code that asks it for lengths or states fails, and its steps are run alone.
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = pieces
        self.noted: list[Noted] | None = None
        """Who wants to know how lone tokens attend, to have it done again."""
        self.updates = 0
        self._given: Given | None = None

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: object,
        **kwargs: object,
    ) -> KeysValues:
        """Hold them until they are attended to; they come out as they were."""
        states = key_states, value_states
        self.updates += 1
        self._given = Given(self.pieces, states, layer_idx, (args, kwargs), self.noted)
        return states

    def take(self) -> Given | None:
        """What came last, once."""
        given, self._given = self._given, None
        return given


def parts(pieces: Sequence[Piece], flat: torch.Tensor) -> list[torch.Tensor]:
    """(1, heads, all tokens, width) -> each piece's (rows, heads, tokens, width)."""
    each = flat.split_with_sizes([piece.stop - piece.first for piece in pieces], dim=2)
    return [piece.of(own) for piece, own in zip(pieces, each, strict=True)]


@dataclass(slots=True)
class Merged:
    """Several crossings as one, in one row, and what is each one's own."""

    crossing: Crossing
    pieces: list[Piece]
    masks: tuple[tuple[torch.Tensor | None, ...], ...]
    """For each call of the crossing, the pieces' masks."""
    handing: Handing = field(init=False)

    def __post_init__(self) -> None:
        """Make what stands for the cache."""
        self.handing = Handing(self.pieces)

    @classmethod
    def of(cls, steps: Sequence[tuple[Crossing, Cache]]) -> Merged:
        """Steps of one kind; raises Cannot where their inputs cannot be joined."""
        pieces: list[Piece] = []
        first = 0
        for crossing, cache in steps:
            pieces.append(Piece(first, crossing.batch, crossing.tokens, cache))
            first = pieces[-1].stop
        crossings = [crossing for crossing, _ in steps]
        carried = tuple(
            torch.cat([tensor.reshape(1, -1, tensor.shape[-1]) for tensor in tensors], dim=1)
            for tensors in zip(*(crossing.carried for crossing in crossings), strict=True)
        )
        joined = [
            _joined([crossing.calls[index] for crossing in crossings], pieces)
            for index in range(len(crossings[0].calls))
        ]
        calls, masks = tuple(call for call, _ in joined), tuple(mask for _, mask in joined)
        start, order = crossings[0].start, crossings[0].order
        return cls(Crossing(start, carried, calls, order), pieces, masks)

    def split(self, tree: Tree) -> list[Tree]:
        """What came out, for each piece; raises StepFailed for tensors that are not of tokens."""
        total = self.pieces[-1].stop

        def check(_: Path, leaf: Leaf) -> Leaf:
            if isinstance(leaf, torch.Tensor) and total not in leaf.shape[:2]:
                raise StepFailed(f"an output of shape {tuple(leaf.shape)}")
            return leaf

        map_leaves(tree, check)
        return [
            map_leaves(tree, lambda _, x, p=piece: p.rows_of(x) if torch.is_tensor(x) else x)
            for piece in self.pieces
        ]


def kind_of(crossing: Crossing) -> Kind:
    """Equal for steps that may be tried as one: same blocks, same inputs but for their tokens."""
    size = crossing.batch, crossing.tokens
    carried = tuple((tensor.dtype, tensor.shape[-1]) for tensor in crossing.carried)
    calls = tuple(
        tuple(_leaf_kind(path, leaf, size) for path, leaf in leaves((call.args, call.kwargs)))
        for call in crossing.calls
    )
    return crossing.start, crossing.order, carried, calls


def _leaf_kind(path: Path, leaf: Leaf, size: tuple[int, int]) -> tuple[Any, ...]:
    if leaf is None or (isinstance(leaf, torch.Tensor) and leaf.dim() == MASK_RANK):
        return path, "mask or nothing"
    if isinstance(leaf, torch.Tensor):
        tokenwise = is_tokenwise(leaf, *size)
        rest = tuple(leaf.shape[2:]) if tokenwise else tuple(leaf.shape)
        return path, tokenwise, leaf.dim(), rest, leaf.dtype
    known = leaf is None or isinstance(leaf, bool | int | float | str | Marker)
    return path, leaf if known else id(leaf)


def is_tokenwise(leaf: torch.Tensor, rows: int, tokens: int) -> bool:
    """(tokens,), (1 or rows, tokens), or more dimensions after these."""
    if leaf.dim() == 1:
        return leaf.shape[0] == tokens
    return leaf.dim() > 1 and leaf.shape[0] in {1, rows} and leaf.shape[1] == tokens


def _joined(
    calls: Sequence[Call], pieces: Sequence[Piece]
) -> tuple[Call, tuple[torch.Tensor | None, ...]]:
    """One call of all of them without its masks, and each one's mask."""
    trees = [(call.args, call.kwargs) for call in calls]
    masks: list[tuple[torch.Tensor | None, ...]] = []

    def join(path: Path, leaf: Leaf) -> Leaf:
        each = [get(tree, path) for tree in trees]
        if any(isinstance(one, torch.Tensor) and one.dim() == MASK_RANK for one in each):
            masks.append(tuple(each))
            return None
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return torch.cat(
            [flat(one, piece) for one, piece in zip(each, pieces, strict=True)],
            dim=min(1, leaf.dim() - 1),
        )

    args, kwargs = map_leaves(trees[0], join)
    if len(masks) > 1:
        raise Cannot("more than one mask")
    return Call(args, kwargs), masks[0] if masks else (None,) * len(pieces)


def flat(leaf: torch.Tensor, piece: Piece) -> torch.Tensor:
    """Side inputs of each row's tokens, in one row."""
    if not is_tokenwise(leaf, piece.rows, piece.tokens):
        raise Cannot(f"a side input of shape {tuple(leaf.shape)}")
    if leaf.dim() == 1:
        return leaf.repeat(piece.rows)
    spread = leaf.expand(piece.rows, *leaf.shape[1:])
    return spread.reshape(1, piece.rows * piece.tokens, *leaf.shape[2:])


def agree(alone: Tree, merged: Tree) -> bool:
    """Whether two outputs are the same but for rounding."""
    pairs = zip(leaves(alone), leaves(merged), strict=False)
    for (path, one), (also, other) in pairs:
        if path != also or isinstance(one, torch.Tensor) != isinstance(other, torch.Tensor):
            return False
        if isinstance(one, torch.Tensor) and not _close(one, other):
            return False
    return len(list(leaves(alone))) == len(list(leaves(merged)))


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape:
        return False
    tolerance = TOLERANCE.get(one.dtype, TOLERANCE_16)
    size = one.double().abs().mean().clamp_min(1e-12)
    return bool((one.double() - other.double()).abs().mean() <= tolerance * size)
