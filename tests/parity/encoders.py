"""Tiny random models that keep no cache, and inputs for them: encoders, towers, stages.

To add an architecture, add one entry to `ENCODERS`: it is run over 2 and 3 spans.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
from torch.utils import _pytree as pytree

from shardline.model import quiet
from tests.parity.chains import furthest
from tests.parity.zoo import enliven

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

__all__ = [
    "CLIP", "ENCODERS", "PICTURE", "SWIN", "T5", "TOKENS", "TOWER", "WHISPER", "Encoder", "Inputs",
    "encoder", "largest", "make_encoder", "pictures", "sounds", "texts",
]  # fmt: skip

Inputs = dict[str, torch.Tensor]
TOKENS: dict[str, Any] = {"vocab_size": 96, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TOWER: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
}  # fmt: skip
PICTURE: dict[str, Any] = {"image_size": 32, "patch_size": 8}
WHISPER: dict[str, Any] = TOKENS | {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
    "max_source_positions": 30, "num_mel_bins": 8, "decoder_start_token_id": 1,
}  # fmt: skip
SWIN: dict[str, Any] = {
    "image_size": 16, "patch_size": 2, "embed_dim": 16, "depths": [2, 1], "num_heads": [2, 4],
    "window_size": 4,
}  # fmt: skip
CLIP: dict[str, Any] = {
    "text_config": TOWER | TOKENS | {"max_position_embeddings": 20},
    "vision_config": TOWER | PICTURE,
    "projection_dim": 16,
}
T5: dict[str, Any] = {
    "vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4,
}  # fmt: skip


def texts(batch: int, length: int) -> Inputs:
    """Padded on the right, but for the first."""
    ids = torch.randint(3, 96, (batch, length), generator=torch.Generator().manual_seed(length))
    mask = torch.ones_like(ids)
    mask[1:, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def pictures(batch: int, size: int) -> Inputs:
    generator = torch.Generator().manual_seed(batch)
    return {"pixel_values": torch.randn(batch, 3, size, size, generator=generator)}


def sounds(batch: int) -> Inputs:
    generator = torch.Generator().manual_seed(batch)
    return {"input_features": torch.randn(batch, 8, 60, generator=generator)}


@dataclass(frozen=True)
class Encoder:
    """One tiny model and what to run it on."""

    name: str
    kind: str
    """Its class in Transformers."""
    config: str
    fields: dict[str, Any]
    inputs: list[Inputs] = field(default_factory=list[Inputs])
    chains: int = 1


THREE = TOWER | {"num_hidden_layers": 3}
ENCODERS: tuple[Encoder, ...] = (
    Encoder("bert", "BertModel", "BertConfig", THREE | TOKENS, [texts(2, 12), texts(1, 5)]),
    Encoder(
        "distilbert",
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {"vocab_size": 96, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64},
        [texts(2, 12)],
    ),
    Encoder(
        "modernbert",
        "ModernBertForMaskedLM",
        "ModernBertConfig",
        THREE
        | TOKENS
        | {
            "global_attn_every_n_layers": 2,
            "local_attention": 8,
            "cls_token_id": 1,
            "sep_token_id": 2,
        },
        [texts(2, 12), texts(3, 20)],
    ),
    Encoder(
        "vit",
        "ViTForImageClassification",
        "ViTConfig",
        THREE | PICTURE,
        [pictures(2, 32), pictures(3, 32)],
    ),
    Encoder("dinov2", "Dinov2Model", "Dinov2Config", THREE | PICTURE, [pictures(2, 32)]),
    Encoder(
        "clip",
        "CLIPModel",
        "CLIPConfig",
        CLIP,
        [texts(2, 12) | pictures(2, 32), texts(3, 7) | pictures(4, 32)],
        chains=2,
    ),
    Encoder(
        "swin",
        "SwinModel",
        "SwinConfig",
        SWIN | {"image_size": 32, "depths": [2, 1, 1], "num_heads": [2, 4, 4]},
        [pictures(2, 32), pictures(1, 64)],
    ),
    Encoder(
        "convnext",
        "ConvNextModel",
        "ConvNextConfig",
        {"hidden_sizes": [8, 16, 24], "depths": [1, 2, 1], "num_stages": 3},
        [pictures(2, 32), pictures(1, 64)],
    ),
    Encoder(
        "resnet",
        "ResNetModel",
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 16, 24], "depths": [1, 1, 1]},
        [pictures(2, 32)],
    ),
    Encoder(
        "t5-encoder", "T5EncoderModel", "T5Config", T5 | {"num_layers": 3},
        [texts(2, 12), texts(1, 7)],
    ),
    Encoder(
        "whisper",
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        WHISPER | {"encoder_layers": 3},
        [sounds(2) | {"decoder_input_ids": torch.tensor([[1, 5, 9], [1, 4, 2]])}],
    ),
)  # fmt: skip


def encoder(name: str) -> Encoder:
    """The entry of this name."""
    return next(one for one in ENCODERS if one.name == name)


def make_encoder(entry: Encoder, directory: Path) -> PreTrainedModel:
    """The whole model in float32 with seeded, lively weights; saved in this directory."""
    typeless: Any = transformers
    with quiet():
        config = getattr(typeless, entry.config)(**entry.fields)
        model = cast("PreTrainedModel", getattr(typeless, entry.kind)(config).eval())
        enliven(model)
        typeless = model
        typeless.save_pretrained(directory)
    return model


def largest(one: object, other: object) -> float:
    """The largest difference of any tensor in two outputs of one form."""
    assert type(one) is type(other)
    mine, theirs = pytree.tree_leaves(_plain(one)), pytree.tree_leaves(_plain(other))
    pairs = [(a, b) for a, b in zip(mine, theirs, strict=True) if isinstance(a, torch.Tensor)]
    assert pairs
    return furthest(pairs)


def _plain(output: Any) -> Any:
    """An output of Transformers, and those inside it, as dictionaries."""
    if isinstance(output, dict):
        return {name: _plain(value) for name, value in cast("dict[str, Any]", output).items()}
    return output
