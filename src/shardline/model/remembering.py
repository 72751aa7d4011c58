"""What blocks keep from one step of a session to the next, seen in a forward on shapes.

Decoders keep keys and values of their tokens, or states. A decoder that goes on from what an
encoder read keeps two kinds: of its own tokens, and once of the encoder's states (decision 0029).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache

from shardline.core.errors import Unsupported
from shardline.model.library import quiet, text_config
from shardline.model.trees import Path, get, leaves
from shardline.model.watching import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn
    from transformers import PreTrainedModel

    from shardline.model.chain import ChainPlan

__all__ = ["cache_elements", "cache_vectors", "check_numbers", "with_memory"]

TOKENS: Final = 3
"""Of the decoder in its probe: other than the encoder's, so that shapes tell them apart."""
TEXT_RANK: Final = 3
_FAULTS: Final = (RuntimeError, NotImplementedError, TypeError, ValueError, LookupError)


def check_numbers(name: str, blocks: Sequence[nn.Module], cache: Cache | None) -> None:
    """A block's place in its chain must be its layer in the cache, as its own code counts.

    Raises Unsupported.
    """
    for index, block in enumerate(blocks):
        for module in block.modules():
            layer = getattr(module, "layer_idx", index)
            if layer not in (None, index):
                raise Unsupported(f"{name} numbers block {index} as {layer}")
    caches = len(blocks) if cache is None else len(cache.layers)
    if caches < len(blocks):
        raise Unsupported(f"{name} keeps {caches} caches for {len(blocks)} blocks")


def cache_elements(cache: DynamicCache, tokens: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Elements per token and per sequence that each layer took for so many tokens, of all rows."""
    grows: list[int] = []
    fixed: list[int] = []
    for layer in cache.layers:
        kept = [getattr(layer, "keys", None), getattr(layer, "values", None)]
        grown = sum(t.numel() for t in kept if isinstance(t, torch.Tensor))
        states = [*getattr(layer, "conv_states", {}).values()]
        states += [*getattr(layer, "recurrent_states", {}).values()]
        grows.append(-(-grown // tokens))
        fixed.append(sum(t.numel() for t in states if isinstance(t, torch.Tensor)))
    return tuple(grows), tuple(fixed)


def cache_vectors(cache: DynamicCache) -> tuple[int, ...]:
    """Heads of keys and of values, where a block keeps those of every token and nothing else."""
    return tuple(
        int(layer.keys.shape[1] + layer.values.shape[1])
        if type(layer) is DynamicLayer and layer.keys is not None and layer.values is not None
        else 0
        for layer in cache.layers
    )


def with_memory(plan: ChainPlan, model: PreTrainedModel, forward: Callable[..., Any]) -> ChainPlan:
    """The plan of a model whose second chain writes from what its first one read, with that said.

    Any other plan as it was. `forward` runs the model on shapes and takes more inputs by name.
    Raises Unsupported for a decoder that counts its blocks otherwise than its cache does.
    """
    if not plan.config.is_encoder_decoder or len(plan.chains) != 2 or not model.can_generate():  # noqa: PLR2004
        return plan
    encoder, decoder = plan.chains
    blocks = plan.modules(model)[decoder.span.start :]
    watch = Watch(model, set(blocks))
    written = torch.zeros((plan.batch, TOKENS), dtype=torch.long, device="meta")
    try:
        with watch.open(), torch.no_grad(), quiet():
            forward(decoder_input_ids=written, use_cache=True)
    except _FAULTS:
        return plan
    both = watch.cache
    kept = _kept([watch.calls[block][0].inputs for block in blocks])
    if not isinstance(both, EncoderDecoderCache) or not kept:
        return plan
    own = both.self_attention_cache
    check_numbers(plan.architecture, blocks, own)
    grows, _ = cache_elements(cast("DynamicCache", own), plan.batch * TOKENS)
    text: Any = text_config(plan.config)
    longest = getattr(text, "max_position_embeddings", None)
    return replace(
        plan,
        chains=(encoder, replace(decoder, caches=True, kept=kept)),
        cache_elements_per_token=(0,) * len(encoder.span) + grows[: len(blocks)],
        context_tokens=longest or getattr(text, "max_target_positions", None),
    )


def _kept(calls: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> tuple[Path, ...]:
    """Where all blocks are given the very same states, of other tokens than their own."""
    return tuple(
        path
        for path, leaf in leaves(calls[0])
        if isinstance(leaf, torch.Tensor)
        and leaf.is_floating_point()
        and leaf.dim() == TEXT_RANK
        and leaf.shape[1] != TOKENS
        and all(_at(call, path) is leaf for call in calls)
    )


def _at(call: tuple[tuple[Any, ...], dict[str, Any]], path: Path) -> object:
    try:
        return get(call, path)
    except (LookupError, TypeError):
        return None
