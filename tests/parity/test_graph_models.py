"""The graph route on models of Transformers, tiny and random, over 2 and 3 stages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
import transformers

from shardline.model import quiet
from tests.parity.graphs import difference

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

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


CASES: dict[str, tuple[str, dict[str, Any], list[Inputs]]] = {
    "Bert": ("BertModel", TOWER | TOKENS, [texts(2, 12), texts(3, 7), texts(1, 5)]),
    "ViT": ("ViTModel", TOWER | PICTURE, [pictures(2, 32), pictures(3, 32)]),
    "CLIP": (
        "CLIPModel",
        CLIP,
        [texts(2, 12) | pictures(2, 32), texts(3, 7) | pictures(4, 32)],
    ),
    "ConvNext": (
        "ConvNextModel",
        {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2},
        [pictures(2, 32), pictures(1, 32)],
    ),
    "Swin": ("SwinModel", SWIN, [pictures(2, 16), pictures(3, 16)]),
    "Whisper": ("WhisperModel", WHISPER, [sounds(2), sounds(3)]),
    "T5": ("T5EncoderModel", T5, [texts(2, 12), texts(3, 7)]),
}


def made(name: str) -> nn.Module:
    kind, fields, _ = CASES[name]
    typeless: Any = transformers
    cast("Any", torch).manual_seed(0)
    with quiet():
        model = getattr(typeless, kind)(getattr(typeless, f"{name}Config")(**fields))
    return cast("nn.Module", model.encoder if name == "Whisper" else model)


@pytest.mark.parametrize("name", CASES)
def test_stages_give_what_the_model_gives(name: str, tmp_path: Path) -> None:
    inputs = [((), given) for given in CASES[name][2]]
    assert difference(made(name), inputs, tmp_path) == 0
