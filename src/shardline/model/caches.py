"""The cache that a session keeps on a span of blocks.

The trap that it closes: Transformers' cache answers "how long" from layer 0, which is empty on
every node but the first, and wrong lengths give wrong tokens without any error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import torch
from transformers.cache_utils import CacheLayerMixin, DummyLayer, DynamicCache, DynamicLayer

from shardline.model.pages import PagedLayer, Pages
from shardline.model.pages_int8 import Int8Layer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedConfig

    from shardline.core.spans import Span
    from shardline.model.trees import Leaf

__all__ = ["CACHES", "SpanCache", "cache_in", "layer_bytes"]

CACHES: Final[dict[str, type[PagedLayer]]] = {"int8": Int8Layer}
"""Ways to keep keys and values in fewer bits. To add one: its file, and a line here."""


def cache_in(terms: str) -> type[PagedLayer]:
    """How the nodes of a chain on these terms keep keys and values."""
    words = terms.split("+")
    return next((kind for kind in CACHES.values() if kind.word in words), PagedLayer)


class SpanCache(DynamicCache):
    """One session's cache on one span: layers that the span does not hold cannot be asked.

    With a dummy in their places, Transformers' own code takes the first layer that is held for
    the sequence's length and mask sizes. `tokens` counts for spans without attention.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        span: Span,
        tokens: int | None = None,
        shared: Sequence[Pages] = (),
        kind: type[PagedLayer] = PagedLayer,
    ) -> None:
        """Room for `tokens` of each row (None: as they come); the first of them are `shared`.

        Layers that keep every token are of this kind, the others as Transformers makes them.
        """
        super().__init__(config=config)
        self.tokens = sum(pages.tokens for pages in shared)
        own = None if tokens is None else tokens - self.tokens
        for index, layer in enumerate(self.layers):
            if index not in span:
                self.layers[index] = cast("CacheLayerMixin", DummyLayer())
            elif type(layer) is DynamicLayer:
                self.layers[index] = kind(own, [pages.layers[index] for pages in shared])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens held by this layer or, where it holds none of its own, by this span."""
        if layer_idx < len(self.layers) and isinstance(self.layers[layer_idx], CacheLayerMixin):
            return int(super().get_seq_length(layer_idx))
        return self.tokens

    @property
    def held_tokens(self) -> int:
        """Tokens whose keys and values are held of each row: all that were seen."""
        return self.tokens

    @property
    def keeps_all(self) -> bool:
        """Whether each layer keeps every key and value that it was given, and nothing else."""
        return all(isinstance(layer, PagedLayer | DummyLayer) for layer in self.layers)

    def paged(self, index: int) -> PagedLayer | None:
        """This layer, if it keeps each key and value as it is."""
        layer = self.layers[index] if index < len(self.layers) else None
        return layer if type(layer) is PagedLayer else None

    def pages(self, first: int, stop: int) -> Pages | None:
        """Copies of these tokens, whole pages of the session's own; None where it has no such."""
        if not self.keeps_all:
            return None
        layers = {
            index: layer.copied(first, stop)
            for index, layer in enumerate(self.layers)
            if isinstance(layer, PagedLayer)
        }
        found = {index: pair for index, pair in layers.items() if pair is not None}
        return Pages(stop - first, found) if found and len(found) == len(layers) else None

    def truncate(self, tokens: int) -> None:
        """Forget all tokens but the first so many; raises ValueError where that cannot be done."""
        if not self.keeps_all:
            raise ValueError("a layer of this model does not keep all of the past")
        for layer in self.layers:
            if isinstance(layer, PagedLayer) and layer.get_seq_length():
                layer.truncate(tokens)
        self.tokens = tokens

    def check_integrity(self) -> None:
        """Raise AssertionError if an invariant is broken; tests call it between steps."""
        for layer in self.layers:
            if isinstance(layer, PagedLayer):
                layer.check_integrity()
                assert layer.get_seq_length() in {0, self.tokens}

    @property
    def memory_bytes(self) -> int:
        """Bytes of all of the session's own tensors, as far as they are filled."""
        return sum(map(layer_bytes, self.layers))


def layer_bytes(layer: object) -> int:
    """Bytes of the tensors that a layer holds, as far as they are filled."""
    if isinstance(layer, PagedLayer):
        return layer.memory_bytes
    fields: dict[str, Any] = vars(layer)
    held = [leaf for value in fields.values() for leaf in _values(value)]
    return sum(leaf.nbytes for leaf in held if isinstance(leaf, torch.Tensor))


def _values(value: Leaf) -> list[Any]:
    return list(cast("Mapping[Any, Any]", value).values()) if isinstance(value, dict) else [value]
