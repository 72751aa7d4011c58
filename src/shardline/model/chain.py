"""A model's chains of repeated blocks, found by looking (PAPER section 1).

No architecture is named here. The model is built on the meta device, which holds shapes and no
weights; one probe forward is watched; a chain is a list of modules that are called one after the
other, each getting the very tensors that the one before gave. Decoders have one chain, CLIP has one
for each tower: their blocks are numbered one after the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shardline.core.errors import BlocksOutOfRange
from shardline.model.pages import PagedLayer

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import nn
    from transformers import PreTrainedConfig

    from shardline.core.spans import Span
    from shardline.model.crossing import End
    from shardline.model.trees import Path as TreePath

__all__ = ["Chain", "ChainPlan", "Joint", "Place"]


@dataclass(frozen=True, slots=True)
class Place:
    """A value that one block hands to the next."""

    path: TreePath
    """Where it is in the inputs of the block that takes it."""
    shape: tuple[int, ...]
    """In the probe."""


@dataclass(frozen=True, slots=True)
class Joint:
    """How a block is joined to its neighbours."""

    takes: tuple[Place, ...]
    """What it is handed by the block before it or, at the beginning of a chain, by the caller."""
    gives: tuple[TreePath, ...]
    """Where in its output the values are that the next block takes, in that block's order."""
    template: Any = field(repr=False, compare=False)
    """Its output, with markers and meta tensors at its leaves."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Blocks between which the model does nothing but hand on."""

    path: str
    """The list of its blocks, such as `model.layers`."""
    span: Span
    """Which blocks of the model they are."""
    ends: tuple[End, ...]
    """What its last block gives back."""
    caches: bool = False
    """Whether its blocks keep a cache; if not, each forward is a step of its own."""
    kept: tuple[TreePath, ...] = ()
    """Where in a block's inputs an encoder's states are: they cross once, and nodes keep them."""


@dataclass(frozen=True, slots=True)
class ChainPlan:
    """How one model is cut; learned without its weights."""

    model_dir: Path
    architecture: str
    writes: bool
    """Whether it writes text, with a cache, in a context; others run whole inputs, without."""
    chains: tuple[Chain, ...]
    """In the order in which the model's forward calls them."""
    joints: tuple[Joint, ...]
    """Of each block."""
    batch: int
    """Of the probe's inputs: texts, pictures, sounds."""
    tokens: int | None
    """Of each of its texts; None where what is handed on does not go by tokens."""
    hidden_size: int
    vocabulary: int
    """0 for what reads no text."""
    context_tokens: int | None
    """Positions the model was made to write in; None where its config names no limit."""
    block_elements: tuple[int, ...]
    ends_elements: int
    """Parameters outside the chains, each tied one counted once."""
    cache_elements_per_token: tuple[int, ...]
    cache_elements_fixed: tuple[int, ...]
    cache_vectors_per_token: tuple[int, ...]
    """Keys and values of a token, one a head; 0 for blocks that keep other states, or not all."""
    config: PreTrainedConfig = field(repr=False, compare=False)
    renamings: tuple[Any, ...] = field(repr=False, compare=False)
    """Transformers' own, from the checkpoint's names of tensors to the model's."""

    @property
    def blocks(self) -> int:
        """Blocks of all chains."""
        return len(self.joints)

    @property
    def caches(self) -> bool:
        """Whether any of its blocks keep what they saw."""
        return any(chain.caches for chain in self.chains)

    @property
    def crosses(self) -> bool:
        """Whether it writes from what an encoder of its own read (T5, Whisper)."""
        return any(chain.kept for chain in self.chains)

    @property
    def paths(self) -> str:
        """Where the blocks are, for a person."""
        return " and ".join(chain.path for chain in self.chains)

    def chain_at(self, block: int) -> Chain:
        """The chain that holds this block; raises BlocksOutOfRange."""
        for chain in self.chains:
            if block in chain.span:
                return chain
        raise BlocksOutOfRange(f"block {block} is not within this model's 0:{self.blocks}")

    def modules(self, model: nn.Module) -> list[nn.Module]:
        """The blocks of all chains of this model."""
        lists = (model.get_submodule(chain.path) for chain in self.chains)
        return [block for one in lists for block in one.children()]

    def block_path(self, block: int) -> str:
        """Where in the model this block is, such as `model.layers.3`."""
        chain = self.chain_at(block)
        return f"{chain.path}.{block - chain.span.start}"

    def carried_elements(self, block: int) -> int:
        """What a block is handed, in elements, for one token or, without tokens, one input."""
        per = self.batch * (self.tokens or 1)
        taken = sum(math.prod(place.shape) for place in self.joints[block].takes)
        return -(-taken // per)

    @property
    def step_elements(self) -> int:
        """The most elements that are handed to a block, for one token or one input."""
        return max(self.carried_elements(block) for block in range(self.blocks))

    def block_bytes(self, dtype: torch.dtype) -> tuple[int, ...]:
        """Parameter bytes of each block at this dtype."""
        return tuple(elements * dtype.itemsize for elements in self.block_elements)

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
