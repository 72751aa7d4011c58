"""The caller's cache: of the right lengths, holding nothing.

The caller's own forward asks its cache how long the sequence is and sizes masks by it, while the
keys and values are on the nodes. So each stub writes, through the cache's own methods, one byte
per position (last dimension 1: a tensor without elements would count as an empty cache). Where
blocks attend to an encoder's states, the cache of these gets its bytes in a session's first step.

What a ghost cannot do is follow surgery: beams reordered, tokens cropped, rows repeated. Each
such change replaces or resets the tensors we left in it, which is noticed on the next step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast
from weakref import WeakKeyDictionary

import torch
from transformers.cache_utils import (
    Cache,
    DummyLayer,
    DynamicCache,
    DynamicIndexedLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    EncoderDecoderCache,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from shardline.core.errors import Unsupported
from shardline.model.caches import SpanCache
from shardline.model.cross import CrossCache

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from shardline.model.trees import Leaf

__all__ = [
    "cache_length",
    "check_ghost",
    "extend_ghost",
    "ghost_keeps",
    "layer_kinds",
    "seal_ghost",
]

_KNOWN: Final = (
    DummyLayer,
    DynamicIndexedLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)


@dataclass(slots=True)
class _Ghost:
    """How a cache was left after its last whole step."""

    tokens: int = 0
    tensors: list[torch.Tensor | None] = field(default_factory=list["torch.Tensor | None"])
    kept: tuple[torch.Tensor, ...] = ()
    """The encoder's states that the nodes keep for this session."""


_ghosts: WeakKeyDictionary[Cache, _Ghost] = WeakKeyDictionary()


def cache_length(cache: Cache) -> int:
    """Tokens that a session has seen, by the caller's cache or by a span's."""
    if isinstance(cache, SpanCache | CrossCache):
        return cache.tokens
    return _ghosts[cache].tokens if cache in _ghosts else 0


def ghost_keeps(cache: Cache) -> tuple[torch.Tensor, ...]:
    """The encoder's states that a session began with, as they were given; none before it did."""
    return _ghosts[cache].kept if cache in _ghosts else ()


def layer_kinds(config: PreTrainedConfig) -> tuple[type, ...]:
    """The kinds of cache that this model's blocks keep; raises Unsupported for an unknown one."""
    kinds = tuple(type(layer) for layer in DynamicCache(config=config).layers)
    for kind in kinds:
        if kind not in _KNOWN:
            raise Unsupported(f"this model keeps a {kind.__name__}, a kind of cache not built yet")
    return kinds


def check_ghost(cache: Cache, kinds: tuple[type, ...], *, crosses: bool = False) -> None:
    """Raise Unsupported unless the nodes' caches are still what this one stands for.

    `kinds` are those of the blocks' layers; `crosses`: they attend to an encoder's states too.
    """
    parts = _parts(cache)
    if isinstance(cache, EncoderDecoderCache) != crosses:
        raise _cannot_stand(cache)
    for part, wanted in zip(parts, (kinds, (DynamicLayer,) * len(kinds)), strict=False):
        _fill(part, len(kinds))
        if tuple(type(layer) for layer in part.layers[: len(kinds)]) != wanted:
            raise Unsupported(
                "the cache was not made for this model: DynamicCache(config=model.config)"
            )
    ghost = _ghosts.get(cache, _Ghost())
    left = _tensors(cache)
    expected = ghost.tensors or [None] * len(left)
    if len(left) != len(expected) or any(a is not b for a, b in zip(left, expected, strict=True)):
        raise Unsupported(
            "the cache was changed between steps (beam search, assisted or contrastive decoding,"
            " cropping, copying): a remote session cannot follow; sampling and greedy decoding can"
        )


def _parts(cache: Cache) -> list[DynamicCache]:
    """The caches that it is made of: of the tokens and, in some, of an encoder's states.

    Raises Unsupported where these do not grow as they are filled.
    """
    both = isinstance(cache, EncoderDecoderCache)
    parts = [cache.self_attention_cache, cache.cross_attention_cache] if both else [cache]
    for part in parts:
        if not isinstance(part, DynamicCache) or part.offloading:
            raise _cannot_stand(part)
    return cast("list[DynamicCache]", parts)


def _cannot_stand(cache: Cache) -> Unsupported:
    kind = type(cache).__name__
    return Unsupported(f"a {kind} cannot stand for a remote session: leave the cache to default")


def _fill(cache: DynamicCache, blocks: int) -> None:
    """A cache made without a config grows its layers on demand: all of them now."""
    make = cache.layer_class_to_replicate
    while make is not None and len(cache.layers) < blocks:
        cache.layers.append(make())


def extend_ghost(
    cache: Cache, layer_index: int, batch: int, tokens: int, kept_tokens: int = 0
) -> None:
    """Let this layer of the cache see `tokens` more positions of `batch` sequences.

    And, in a session's first step, `kept_tokens` of an encoder's states.
    """
    typeless: Any = cache
    if isinstance(cache, EncoderDecoderCache):
        if kept_tokens:
            byte = torch.zeros((batch, 1, kept_tokens, 1), dtype=torch.uint8)
            typeless.cross_attention_cache.update(byte, byte, layer_index)
            typeless.is_updated[layer_index] = True
        typeless = typeless.self_attention_cache
    layer: Any = typeless.layers[layer_index]
    if isinstance(layer, DynamicLayer):
        byte = torch.zeros((batch, 1, tokens, 1), dtype=torch.uint8)
        typeless.update(byte, byte, layer_index)
    if isinstance(layer, LinearAttentionCacheLayerMixin):
        byte = torch.zeros((batch, 1, 1), dtype=torch.uint8)
        for state in range(layer.number_of_states):
            typeless.update_conv_state(byte, layer_index, state)
            typeless.update_recurrent_state(byte, layer_index, state)


def seal_ghost(cache: Cache, tokens: int, kept: tuple[torch.Tensor, ...] = ()) -> None:
    """Remember how the cache is left after a whole step of `tokens` more positions.

    `kept` are the encoder's states that the session was given in its first step.
    """
    kept = kept or ghost_keeps(cache)
    _ghosts[cache] = _Ghost(cache_length(cache) + tokens, _tensors(cache), kept)


def _tensors(cache: Cache) -> list[torch.Tensor | None]:
    """One tensor of each layer, whose identity changes with any surgery; None when empty."""
    layers = [layer for part in _parts(cache) for layer in cast("list[Any]", part.layers)]
    return [_tensor(layer) for layer in layers]


def _tensor(layer: Leaf) -> torch.Tensor | None:
    if isinstance(layer, DynamicLayer):
        return layer.keys
    if isinstance(layer, LinearAttentionCacheLayerMixin) and layer.has_previous_state[0]:
        return layer.conv_states[0]
    return None
