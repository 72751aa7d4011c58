"""Checkpoints with random weights that benchmarks write for themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedConfig

__all__ = ["tinyllama", "write_model"]


def tinyllama(*, blocks: int, vocabulary: int, positions: int = 2048) -> LlamaConfig:
    """So many blocks of TinyLlama's shape (22 and 32,000 words are TinyLlama)."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=blocks,
        num_attention_heads=32,
        num_key_value_heads=4,
        max_position_embeddings=positions,
    )


def write_model(config: PreTrainedConfig, folder: Path, dtype: torch.dtype) -> None:
    """Always the same weights for a config, in files of at most half a gigabyte."""
    cast("Any", torch).manual_seed(0)
    model = cast("Any", AutoModelForCausalLM).from_config(config, dtype=dtype)
    model.save_pretrained(folder, max_shard_size="500MB")
