"""Keys and values in pages: a session's own in one run of them, shared ones beside it, read-only.

What a session may need is known when it opens, so its pages follow each other in memory: a step
writes into them and attention reads a view, without a copy. Pages that sessions share (a prefix
which they have in common) are never written: who goes on behind them writes pages of its own, and
who is truncated within one copies what it keeps of it (decision 0023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from transformers.cache_utils import DynamicLayer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["PAGE_TOKENS", "PagedLayer", "Pages"]

PAGE_TOKENS: Final = 64
"""Of each row. Fewer share more of prompts that part early, and cost more digests and pieces."""

KeysValues = tuple[torch.Tensor, torch.Tensor]
"""Each (rows, heads, tokens, width)."""


@dataclass(frozen=True, slots=True, eq=False)
class Pages:
    """Whole pages of one row, of every layer of a span that has any; nobody writes to them."""

    tokens: int
    layers: Mapping[int, KeysValues]

    def __post_init__(self) -> None:
        """Check that they are whole."""
        if self.tokens < PAGE_TOKENS or self.tokens % PAGE_TOKENS:
            raise ValueError(f"{self.tokens} tokens are no whole pages")

    def first(self, pages: int) -> Pages:
        """The first so many of them, in the same memory."""
        tokens = pages * PAGE_TOKENS
        if tokens == self.tokens:
            return self
        layers = {
            index: (keys[:, :, :tokens], values[:, :, :tokens])
            for index, (keys, values) in self.layers.items()
        }
        return Pages(tokens, layers)


class PagedLayer(DynamicLayer):
    """One layer's keys and values: what is shared, then the session's own."""

    def __init__(self, tokens: int | None = None, shared: Sequence[KeysValues] = ()) -> None:
        """Room for `tokens` of its own (None: as it comes) behind what is shared."""
        cast("Any", super()).__init__()
        self._room = tokens
        self._shared = tuple(shared)
        self._own: KeysValues | None = None
        self._filled = 0

    @property
    def shared_tokens(self) -> int:
        """Tokens in pages that others may hold too."""
        return sum(int(keys.shape[-2]) for keys, _ in self._shared)

    @property
    def room_tokens(self) -> int:
        """Tokens that its own pages hold without growing."""
        return 0 if self._own is None else int(self._own[0].shape[-2])

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
        stop = self._filled + key_states.shape[-2]
        keys, values = own = self._fitting(stop, key_states, value_states)
        for mine, new in zip(own, (key_states, value_states), strict=True):
            if mine.shape[:2] != new.shape[:2]:
                raise ValueError(f"{tuple(new.shape[:2])} rows and heads, not {mine.shape[:2]}")
            mine[:, :, self._filled : stop] = new
        self._filled = stop
        self.keys, self.values = keys[:, :, :stop], values[:, :, :stop]
        return self._all()

    def truncate(self, tokens: int) -> None:
        """Forget all tokens but the first so many; what is shared stays as it is for others."""
        if not 0 <= tokens <= self.get_seq_length():
            raise ValueError(f"{tokens} tokens, but {self.get_seq_length()} are held")
        if tokens >= self.shared_tokens:
            self._filled = tokens - self.shared_tokens
        else:
            self._part_from_shared(tokens)
        if self._own is not None:
            keys, values = self._own
            self.keys, self.values = keys[:, :, : self._filled], values[:, :, : self._filled]

    def crop(self, tokens_to_remove: int) -> None:
        """As `truncate`, in Transformers' words: minus the number of tokens to forget."""
        self.truncate(self.get_seq_length() - abs(tokens_to_remove))

    def reset(self) -> None:
        """Forget all, and what was shared too."""
        self._shared, self._own, self._filled = (), None, 0
        super().reset()

    def copied(self, first: int, stop: int) -> KeysValues | None:
        """These tokens of one row in memory of their own; None if they are not its own, or many."""
        first, stop = first - self.shared_tokens, stop - self.shared_tokens
        if self._own is None or self._own[0].shape[0] != 1 or not 0 <= first < stop <= self._filled:
            return None
        keys, values = self._own
        return keys[:, :, first:stop].clone(), values[:, :, first:stop].clone()

    def check_integrity(self) -> None:
        """Raise AssertionError if an invariant is broken; tests call it after every step."""
        assert 0 <= self._filled <= self.room_tokens
        assert self.room_tokens % PAGE_TOKENS == 0
        assert self.shared_tokens % PAGE_TOKENS == 0
        if self._own is not None:
            for view, own in zip((self.keys, self.values), self._own, strict=True):
                assert view is not None
                assert view.shape[-2] == self._filled
                assert not self._filled or view.data_ptr() == own.data_ptr()

    def __deepcopy__(self, memo: dict[int, Any]) -> PagedLayer:
        """Own pages are copied as far as they are filled, with one more; what is shared stays."""
        copy = PagedLayer(self._filled + PAGE_TOKENS, self._shared)
        if self._own is not None:
            copy.update(self._own[0][:, :, : self._filled], self._own[1][:, :, : self._filled])
        memo[id(self)] = copy
        return copy

    def _all(self) -> KeysValues:
        assert self.keys is not None
        assert self.values is not None
        if not self._shared:
            return self.keys, self.values
        keys = torch.cat([*(keys for keys, _ in self._shared), self.keys], dim=-2)
        values = torch.cat([*(values for _, values in self._shared), self.values], dim=-2)
        return keys, values

    def _fitting(self, tokens: int, keys: torch.Tensor, values: torch.Tensor) -> KeysValues:
        """Own pages with room for so many tokens."""
        if self._own is not None and tokens <= self.room_tokens:
            return self._own
        wanted = max(tokens, 2 * self.room_tokens, self._room or 0)
        grown = _pages_like(keys, wanted), _pages_like(values, wanted)
        if self._own is not None:
            for new, old in zip(grown, self._own, strict=True):
                new[:, :, : self._filled] = old[:, :, : self._filled]
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._own = grown
        return grown

    def _part_from_shared(self, tokens: int) -> None:
        """Keep whole shared pages, and copy the part of one that is kept: nobody's but ours."""
        whole = tokens - tokens % PAGE_TOKENS
        keys, values = (torch.cat(part, dim=-2) for part in zip(*self._shared, strict=True))
        rest = keys[:, :, whole:tokens], values[:, :, whole:tokens]
        if self._room is not None:
            self._room += int(keys.shape[-2]) - whole
        stretches: list[KeysValues] = []
        left = whole
        for keys, values in self._shared:
            if left > 0:
                stretches.append((keys[:, :, :left], values[:, :, :left]))
            left -= int(keys.shape[-2])
        self._shared, self._own, self._filled = tuple(stretches), None, 0
        self.update(*rest)


def _pages_like(states: torch.Tensor, tokens: int) -> torch.Tensor:
    """Whole pages for so many tokens of each row; memory is touched when it is written."""
    rows, heads, _, width = states.shape
    pages = -(-tokens // PAGE_TOKENS)
    return states.new_empty((rows, heads, pages * PAGE_TOKENS, width))
