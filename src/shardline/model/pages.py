"""Keys and values in pages: a session's own in one run of them, shared ones beside it, read-only.

What a session may need is known when it opens, so its pages follow each other in memory: a step
writes into them and attention reads a view, without a copy. Pages that sessions share (a prefix
which they have in common) are never written: who goes on behind them writes pages of its own, and
who is truncated within one copies what it keeps of it (decision 0023). How a token is kept is a
layer's own matter: as it is here, in 8 bits in `pages_int8`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

import torch
from transformers.cache_utils import DynamicLayer

from shardline.kernels import Runs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["PAGE_TOKENS", "Held", "KeysValues", "PagedLayer", "Pages"]

PAGE_TOKENS: Final = 64
"""Of each row. Fewer share more of prompts that part early, and cost more digests and pieces."""

KeysValues = tuple[torch.Tensor, torch.Tensor]
"""Each (rows, heads, tokens, width)."""
Held = tuple[torch.Tensor, ...]
"""The same as a layer keeps them: whatever it takes, each (rows, heads, tokens, ...)."""


@dataclass(frozen=True, slots=True, eq=False)
class Pages:
    """Whole pages of one row, of every layer of a span that has any; nobody writes to them."""

    tokens: int
    layers: Mapping[int, Held]

    def __post_init__(self) -> None:
        """Check that they are whole."""
        if self.tokens < PAGE_TOKENS or self.tokens % PAGE_TOKENS:
            raise ValueError(f"{self.tokens} tokens are no whole pages")

    def first(self, pages: int) -> Pages:
        """The first so many of them, in the same memory."""
        tokens = pages * PAGE_TOKENS
        if tokens == self.tokens:
            return self
        return Pages(tokens, {at: _part(held, 0, tokens) for at, held in self.layers.items()})


class PagedLayer(DynamicLayer):
    """One layer's keys and values: what is shared, then the session's own.

    A kind that keeps them otherwise says so in `word` and `token_bytes`, and turns them in `_kept`
    and `_whole`. A token becomes the same whatever comes with it, and is copied as it is kept.
    """

    word: ClassVar[str] = ""
    """What it adds to a chain's terms; empty for what is exact."""

    @classmethod
    def token_bytes(cls, elements: int, vectors: int, dtype: torch.dtype) -> int:
        """Of a token with so many elements in so many vectors, a key and a value for each head."""
        del vectors
        return elements * dtype.itemsize

    def __init__(self, tokens: int | None = None, shared: Sequence[Held] = ()) -> None:
        """Room for `tokens` of its own (None: as it comes) behind what is shared."""
        cast("Any", super()).__init__()
        self._room = tokens
        self._shared = tuple(shared)
        self._own: Held | None = None
        self._filled = 0
        self._runs: tuple[Held, Runs] | None = None

    @property
    def shared_tokens(self) -> int:
        """Tokens in pages that others may hold too."""
        return sum(map(_length, self._shared))

    @property
    def room_tokens(self) -> int:
        """Tokens that its own pages hold without growing."""
        return 0 if self._own is None else _length(self._own)

    @property
    def memory_bytes(self) -> int:
        """Bytes of its own pages, as far as they are filled."""
        return sum(tensor.nbytes for tensor in _part(self._own or (), 0, self._filled))

    def get_seq_length(self) -> int:
        """Tokens held."""
        return self.shared_tokens + self._filled

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> KeysValues:
        """Take these and give all, each (rows, heads, tokens, width); raises ValueError."""
        del args, kwargs
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        own = self._take(self._kept(key_states, value_states))
        return self._whole([*self._shared, own])

    def reached(self, rows: int, fresh: KeysValues, form: tuple[int, tuple[int, int]]) -> Runs:
        """Room for one more token of each row, which whoever attends writes, and all before it.

        Of so many rows, and of this form: heads, and the widths of a key and of a value, as they
        are in what is `fresh`. For a layer that keeps both as they are. Raises ValueError.
        """
        own, runs = self._runs or (None, None)
        tokens = self._filled + 1
        if runs is None or own is not self._own or tokens > runs.room:
            runs = self._placed(rows, fresh, tokens)
        if rows != runs.rows or form != runs.form:
            raise ValueError(f"{rows} rows of {form}, not {runs.rows} of {runs.form}")
        runs.reach(tokens)
        self._filled = tokens
        return runs

    def truncate(self, tokens: int) -> None:
        """Forget all tokens but the first so many; what is shared stays as it is for others."""
        if not 0 <= tokens <= self.get_seq_length():
            raise ValueError(f"{tokens} tokens, but {self.get_seq_length()} are held")
        if tokens >= self.shared_tokens:
            self._filled = tokens - self.shared_tokens
        else:
            self._part_from_shared(tokens)

    def crop(self, tokens_to_remove: int) -> None:
        """As `truncate`, in Transformers' words: minus the number of tokens to forget."""
        self.truncate(self.get_seq_length() - abs(tokens_to_remove))

    def reset(self) -> None:
        """Forget all, and what was shared too."""
        self._shared, self._own, self._filled, self._runs = (), None, 0, None
        super().reset()

    def copied(self, first: int, stop: int) -> Held | None:
        """These tokens of one row in memory of their own; None if they are not its own, or many."""
        first, stop = first - self.shared_tokens, stop - self.shared_tokens
        if self._own is None or self._own[0].shape[0] != 1 or not 0 <= first < stop <= self._filled:
            return None
        return tuple(tensor.clone() for tensor in _part(self._own, first, stop))

    def check_integrity(self) -> None:
        """Raise AssertionError if an invariant is broken; tests call it after every step."""
        assert 0 <= self._filled <= self.room_tokens
        assert self.room_tokens % PAGE_TOKENS == 0
        assert self.shared_tokens % PAGE_TOKENS == 0
        assert all(tensor.shape[-2] == self.room_tokens for tensor in self._own or ())

    def __deepcopy__(self, memo: dict[int, Any]) -> PagedLayer:
        """Own pages are copied as far as they are filled, with one more; what is shared stays."""
        copy = type(self)(self._filled + PAGE_TOKENS, self._shared)
        if self._own is not None:
            copy._take(_part(self._own, 0, self._filled))  # noqa: SLF001  (one of its kind)
        memo[id(self)] = copy
        return copy

    def _kept(self, keys: torch.Tensor, values: torch.Tensor) -> Held:
        """How they are kept."""
        return keys, values

    def _whole(self, runs: Sequence[Held]) -> KeysValues:
        """What was kept, as attention takes it; a view where that can be."""
        if len(runs) == 1:
            keys, values = runs[0]
            return keys, values
        keys, values = (torch.cat(part, dim=-2) for part in zip(*runs, strict=True))
        return keys, values

    def _take(self, fresh: Held) -> Held:
        """Copy these behind its own, and give all of these."""
        tokens = _length(fresh)
        stop = self._filled + tokens
        own = self._fitting(stop, fresh)
        for mine, new in zip(own, fresh, strict=True):
            if mine.shape[:2] != new.shape[:2]:
                raise ValueError(f"{tuple(new.shape[:2])} rows and heads, not {mine.shape[:2]}")
            mine.narrow(2, self._filled, tokens).copy_(new)
        self._filled = stop
        return _part(own, 0, stop)

    def _placed(self, rows: int, fresh: KeysValues, tokens: int) -> Runs:
        """Where all lie that is shared, and own pages with room for so many tokens."""
        keys, values = (states[:, :, :1].expand(rows, -1, -1, -1) for states in fresh)
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        own = self._fitting(tokens, (keys, values))
        runs = Runs(cast("list[KeysValues]", [*self._shared, own]))
        self._runs = own, runs
        return runs

    def _fitting(self, tokens: int, like: Held) -> Held:
        """Own pages with room for so many tokens."""
        if self._own is not None and tokens <= self.room_tokens:
            return self._own
        wanted = max(tokens, 2 * self.room_tokens, self._room or 0)
        grown = tuple(_pages_like(tensor, wanted) for tensor in like)
        if self._own is not None:
            for new, old in zip(grown, self._own, strict=True):
                new[:, :, : self._filled] = old[:, :, : self._filled]
        self._own, self._runs = grown, None
        return grown

    def _part_from_shared(self, tokens: int) -> None:
        """Keep whole shared pages, and copy the part of one that is kept: nobody's but ours."""
        whole = tokens - tokens % PAGE_TOKENS
        joined = tuple(torch.cat(part, dim=-2) for part in zip(*self._shared, strict=True))
        if self._room is not None:
            self._room += _length(joined) - whole
        stretches: list[Held] = []
        left = whole
        for run in self._shared:
            if left > 0:
                stretches.append(_part(run, 0, left))
            left -= _length(run)
        self._shared, self._own, self._filled = tuple(stretches), None, 0
        self._take(_part(joined, whole, tokens))


def _length(held: Held) -> int:
    return int(held[0].shape[-2])


def _part(held: Held, first: int, stop: int) -> Held:
    """These tokens of it, in the same memory."""
    return tuple(tensor[:, :, first:stop] for tensor in held)


def _pages_like(states: torch.Tensor, tokens: int) -> torch.Tensor:
    """Whole pages for so many tokens of each row; memory is touched when it is written."""
    rows, heads, _, width = states.shape
    pages = -(-tokens // PAGE_TOKENS)
    return states.new_empty((rows, heads, pages * PAGE_TOKENS, width))
