"""Networks of diffusers by the graph route, over 2 and 3 stages: nodes need nothing of diffusers.

Its checkpoints are of another library's classes, which shardline does not read; a caller who has
that library gives `FILE.py:FACTORY`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from shardline.model import quiet
from tests.parity.graphs import difference

if TYPE_CHECKING:
    from pathlib import Path

diffusers: Any = pytest.importorskip("diffusers", reason="pip install diffusers")

HEADS: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 8}
SMALL: dict[str, Any] = {
    "block_out_channels": (16, 32),
    "norm_num_groups": 8,
    "layers_per_block": 1,
}


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def sd3(batch: int) -> dict[str, torch.Tensor]:
    return {
        "hidden_states": noise(batch, 4, 8, 8),
        "encoder_hidden_states": noise(batch, 6, 16),
        "pooled_projections": noise(batch, 12),
        "timestep": torch.full((batch,), 500.0),
    }


def flux(batch: int) -> dict[str, torch.Tensor]:
    return {
        "hidden_states": noise(batch, 16, 8),
        "encoder_hidden_states": noise(batch, 6, 16),
        "pooled_projections": noise(batch, 12),
        "timestep": torch.full((batch,), 0.5),
        "img_ids": torch.arange(48.0).reshape(16, 3) % 4,
        "txt_ids": torch.zeros(6, 3),
    }


def dit(batch: int) -> dict[str, torch.Tensor]:
    return {
        "hidden_states": noise(batch, 4, 8, 8),
        "timestep": torch.full((batch,), 500),
        "class_labels": torch.arange(batch),
    }


def unet(batch: int) -> dict[str, torch.Tensor]:
    return {
        "sample": noise(batch, 4, 8, 8),
        "timestep": torch.full((batch,), 500),
        "encoder_hidden_states": noise(batch, 6, 16),
    }


def vae(batch: int) -> dict[str, torch.Tensor]:
    return {"sample": noise(batch, 3, 16, 16)}


CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "SD3Transformer2DModel": (
        HEADS
        | {
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": 4,
            "num_layers": 3,
            "joint_attention_dim": 16,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 12,
            "out_channels": 4,
            "pos_embed_max_size": 8,
        },
        sd3,
    ),
    "FluxTransformer2DModel": (
        HEADS
        | {
            "in_channels": 8,
            "num_layers": 2,
            "num_single_layers": 2,
            "joint_attention_dim": 16,
            "pooled_projection_dim": 12,
            "axes_dims_rope": (2, 2, 4),
        },
        flux,
    ),
    "DiTTransformer2DModel": (
        HEADS
        | {
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 3,
            "num_embeds_ada_norm": 10,
        },
        dit,
    ),
    "UNet2DConditionModel": (
        SMALL
        | {
            "sample_size": 8,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "cross_attention_dim": 16,
            "attention_head_dim": 2,
        },
        unet,
    ),
    "AutoencoderKL": (
        SMALL
        | {
            "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
            "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
            "latent_channels": 4,
        },
        vae,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_stages_give_what_the_network_gives(name: str, tmp_path: Path) -> None:
    fields, inputs = CASES[name]
    torch.default_generator.manual_seed(0)
    with quiet():
        module = getattr(diffusers, name)(**fields).eval()
    given: list[Any] = [((), inputs(batch) | {"return_dict": False}) for batch in (2, 3)]
    assert difference(module, given, tmp_path) == 0
