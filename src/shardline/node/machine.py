"""What this machine can hold, and what a span asks of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import torch

from shardline.core.errors import BadInput, SpanTooLarge
from shardline.core.spans import Span
from shardline.core.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardline.node.models import Model

__all__ = ["Budget", "memory_limit_bytes", "open_device"]

SHARE = 0.8
"""How much of the free memory a node takes by default; the rest stays for the system, for
activations and for what the person does beside."""

TOKENS_LEAST = 256
"""A span that leaves room for fewer cache tokens than this is too large to be useful."""

TOKENS_MOST = 2**20
"""More cache tokens than this are never promised, however small a token's cache is."""


def open_device(name: str) -> torch.device:
    """The device of this name, tried with one small tensor; raises BadInput if it is not here."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # fails on the meta device, which holds nothing
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadInput(f"device {name!r} cannot be used here: {reason}") from None
    return device


def memory_limit_bytes(asked_bytes: int | None, device: torch.device) -> int:
    """What was asked for or, by default, SHARE of what is free on the device now, in bytes.

    Raises BadInput if the device does not have as much as was asked for.
    """
    if device.type == "cuda":
        free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    else:
        memory = psutil.virtual_memory()
        free_bytes, total_bytes = memory.available, memory.total
    if asked_bytes is None:
        return int(free_bytes * SHARE)
    if asked_bytes > total_bytes:
        asked, total = format_bytes(asked_bytes), format_bytes(total_bytes)
        raise BadInput(f"--memory {asked} is more than {device} has: it has {total}")
    return asked_bytes


@dataclass(frozen=True, slots=True)
class Budget:
    """The memory a node may use for weights and cache, and what fits into it."""

    model: Model
    memory_bytes: int

    def span_bytes(self, span: Span) -> int:
        """Bytes of the span's parameters."""
        return self.blocks_bytes(range(span.start, span.stop))

    def blocks_bytes(self, blocks: Iterable[int]) -> int:
        """Bytes of these blocks' parameters, wherever they are in the model."""
        each_bytes = self.model.block_bytes
        return sum(each_bytes[block] for block in blocks)

    def room_bytes(self, span: Span, *, beside: Iterable[int] = ()) -> int:
        """What is left beside the parameters of the span, and of more blocks; maybe negative."""
        return self.memory_bytes - self.blocks_bytes({*range(span.start, span.stop), *beside})

    def cache_tokens(self, span: Span, *, beside: Iterable[int] = ()) -> int:
        """Tokens of cache that fit beside the parameters of the span, and of more blocks.

        Negative if these do not fit.
        """
        left_bytes = self.room_bytes(span, beside=beside)
        return min(left_bytes // max(1, self.model.token_bytes(span)), TOKENS_MOST)

    @property
    def blocks(self) -> int:
        """How many the model has."""
        return len(self.model.block_bytes)

    def fits(self) -> int:
        """How many consecutive blocks fit wherever they start, with room for TOKENS_LEAST."""
        for count in range(self.blocks, 0, -1):
            starts = range(self.blocks - count + 1)
            spans = [Span(start, start + count) for start in starts]
            if all(self.cache_tokens(span) >= TOKENS_LEAST for span in spans):
                return count
        return 0

    def check(self, span: Span | None) -> None:
        """Raise SpanTooLarge, with how many blocks would fit, if the span, or any, does not."""
        if span is None:
            if not self.fits():
                limit = format_bytes(self.memory_bytes)
                raise SpanTooLarge(f"not one block fits into {limit}: give --memory more")
        elif self.cache_tokens(span) < TOKENS_LEAST:
            beside_bytes = TOKENS_LEAST * self.model.token_bytes(span)
            raise SpanTooLarge(
                f"blocks {span} need {format_bytes(self.span_bytes(span))}, and "
                f"{format_bytes(beside_bytes)} beside them for sessions, but the limit is "
                f"{format_bytes(self.memory_bytes)}: {self.fits()} of {self.blocks} blocks fit"
            )
