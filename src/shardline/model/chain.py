"""A model's chain of repeated blocks, found by looking (PAPER section 1).

No architecture is named here. The model is built on the meta device, which holds shapes and no
weights; one probe forward is watched; the chain is the list of modules that are called one after
the other, each getting the very tensor that the one before gave.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shardline.core.errors import BlocksOutOfRange
from shardline.model.pages import PagedLayer

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import PreTrainedConfig

    from shardline.core.spans import Span
    from shardline.model.trees import Path as TreePath

__all__ = ["ChainPlan", "Link"]


@dataclass(frozen=True, slots=True)
class Link:
    """A value that goes from block to block: its place in an output, and in the next inputs."""

    output: TreePath
    inputs: TreePath


@dataclass(frozen=True, slots=True)
class ChainPlan:
    """How one model is cut; learned without its weights."""

    model_dir: Path
    architecture: str
    list_path: str
    """Where the chain is, such as `model.layers`."""
    blocks: int
    links: tuple[Link, ...]
    widths: tuple[int, ...]
    """Last dimension of each carried value."""
    hidden_size: int
    vocabulary: int
    context_tokens: int | None
    """Positions the model was made for; None where its config names no limit."""
    block_elements: tuple[int, ...]
    ends_elements: int
    """Parameters outside the chain, each tied one counted once."""
    cache_elements_per_token: tuple[int, ...]
    cache_elements_fixed: tuple[int, ...]
    cache_vectors_per_token: tuple[int, ...]
    """Keys and values of a token, one a head; 0 for blocks that keep other states, or not all."""
    config: PreTrainedConfig = field(repr=False, compare=False)
    template: Any = field(repr=False, compare=False)
    """A block's output with markers and meta tensors at its leaves."""

    def block_bytes(self, dtype: torch.dtype) -> tuple[int, ...]:
        """Parameter bytes of each block at this dtype."""
        return tuple(elements * dtype.itemsize for elements in self.block_elements)

    def ends_bytes(self, dtype: torch.dtype) -> int:
        """Parameter bytes of what the caller keeps: embeddings, last norm, head."""
        return self.ends_elements * dtype.itemsize

    def cache_bytes_per_token(
        self, dtype: torch.dtype, span: Span, kind: type[PagedLayer] = PagedLayer
    ) -> int:
        """Bytes a session's cache grows by per token and sequence on this span.

        As measured in the probe; a sliding window, which stops growing, is counted as if not.
        """
        self.check(span)
        blocks = zip(self.cache_elements_per_token, self.cache_vectors_per_token, strict=True)
        return sum(
            (kind if vectors else PagedLayer).token_bytes(elements, vectors, dtype)
            for elements, vectors in list(blocks)[span.start : span.stop]
        )

    def cache_bytes_fixed(self, dtype: torch.dtype, span: Span) -> int:
        """Bytes a session's cache takes per sequence whatever its length: recurrent states."""
        self.check(span)
        return sum(self.cache_elements_fixed[span.start : span.stop]) * dtype.itemsize

    def check(self, span: Span) -> None:
        """Raise BlocksOutOfRange unless the span is within this model."""
        if span.stop > self.blocks:
            raise BlocksOutOfRange(f"blocks {span} are not within this model's 0:{self.blocks}")
