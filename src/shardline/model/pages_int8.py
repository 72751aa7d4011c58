"""Keys and values in 8 bits: a signed byte an element, and one scale for each vector.

A vector is one head's key or value of one token. Its scale is its largest magnitude over 127, in
bfloat16, so it takes 2 bytes of its own; what it gives back is at most half a scale off. Nothing
else goes into it: not the vectors beside it, not the step in which it came, and attention sees it
as it is kept from its own step on. So prompts in pieces, shared prefixes and steps sent again after
a death leave the cache of a lone session (decision 0024).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

import torch

from shardline.model.pages import Held, KeysValues, PagedLayer

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Int8Layer", "dequantised", "quantised"]

CODE_MOST: Final = 127
"""-128 is not used: codes are symmetric."""
SCALE: Final = torch.bfloat16
"""As wide in range as float32. Scales are rounded to it before codes are made, so the codes know:
127 may become 127.5 at most, which is 127."""
SCALE_LEAST: Final = torch.finfo(SCALE).tiny
"""What vectors of zeros are divided by."""


def quantised(states: torch.Tensor) -> KeysValues:
    """Codes and scales of (..., width): (..., width) and (..., 1).

    A vector that holds NaN or infinity gets a scale that is, so it comes back as NaN.
    """
    largest = states.abs().amax(dim=-1, keepdim=True).float()
    scales = largest.mul_(1 / CODE_MOST).clamp_min_(SCALE_LEAST).to(SCALE)
    codes = torch.div(states.float(), scales.float()).round_().clamp_(-CODE_MOST, CODE_MOST)
    return codes.to(torch.int8), scales


def dequantised(runs: Sequence[KeysValues], dtype: torch.dtype) -> torch.Tensor:
    """(rows, heads, tokens, width), of codes and scales that follow each other along tokens."""
    codes, _ = runs[0]
    rows, heads, _, width = codes.shape
    tokens = sum(int(codes.shape[-2]) for codes, _ in runs)
    states = codes.new_empty((rows, heads, tokens, width), dtype=dtype)
    first = 0
    for codes, scales in runs:
        stop = first + int(codes.shape[-2])
        states[:, :, first:stop].copy_(codes).mul_(scales.to(dtype))
        first = stop
    return states


class Int8Layer(PagedLayer):
    """A layer that keeps codes and scales of keys, then of values."""

    word: ClassVar[str] = "cache8"

    @classmethod
    def token_bytes(cls, elements: int, vectors: int, dtype: torch.dtype) -> int:
        """A byte an element and a scale a vector, whatever they are computed in."""
        del dtype
        return elements + vectors * SCALE.itemsize

    def _kept(self, keys: torch.Tensor, values: torch.Tensor) -> Held:
        return *quantised(keys), *quantised(values)

    def _whole(self, runs: Sequence[Held]) -> KeysValues:
        """A working copy, which lasts as long as whoever attends holds it."""
        keys = dequantised([(codes, scales) for codes, scales, _, _ in runs], self.dtype)
        values = dequantised([(codes, scales) for _, _, codes, scales in runs], self.dtype)
        return keys, values
