"""The cache that a session keeps on a span of blocks.

The trap that it closes: Transformers' cache answers "how long" from layer 0, which is empty on
every node but the first, and wrong lengths give wrong tokens without any error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from transformers.cache_utils import CacheLayerMixin, DummyLayer, DynamicCache

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedConfig

    from shardline.core.spans import Span
    from shardline.model.trees import Leaf

__all__ = ["SpanCache"]


class SpanCache(DynamicCache):
    """One session's cache on one span: layers that the span does not hold cannot be asked.

    With a dummy in their places, Transformers' own code takes the first layer that is held for
    the sequence's length and mask sizes. `tokens` counts for spans without attention.
    """

    def __init__(self, config: PreTrainedConfig, span: Span) -> None:
        super().__init__(config=config)
        self.tokens = 0
        for index in range(len(self.layers)):
            if index not in span:
                self.layers[index] = cast("CacheLayerMixin", DummyLayer())

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens held by this layer or, where it holds none of its own, by this span."""
        if layer_idx < len(self.layers) and isinstance(self.layers[layer_idx], CacheLayerMixin):
            return int(super().get_seq_length(layer_idx))
        return self.tokens

    @property
    def memory_bytes(self) -> int:
        """Bytes of all tensors held."""
        held: list[Any] = []
        for layer in self.layers:
            fields: dict[str, Any] = vars(layer)
            held += [leaf for value in fields.values() for leaf in _values(value)]
        return sum(t.nbytes for t in held if isinstance(t, torch.Tensor))


def _values(value: Leaf) -> list[Any]:
    return list(cast("Mapping[Any, Any]", value).values()) if isinstance(value, dict) else [value]
