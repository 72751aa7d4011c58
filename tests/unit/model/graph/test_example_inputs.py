"""Inputs that architectures take are found by names and sizes, without their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from torch import nn
from torch._subclasses import FakeTensor

from shardline.core.errors import Unsupported
from shardline.model.graph import build_on_shapes, capture, example_inputs
from shardline.model.graph.example_inputs import OnShapes
from tests.parity.test_graph_models import CASES

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

AUDIO: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64,
    "conv_dim": [8], "conv_stride": [320], "conv_kernel": [400], "num_feat_extract_layers": 1,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
SPECTRA: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64,
    "max_length": 40, "num_mel_bins": 16, "patch_size": 4, "frequency_stride": 4, "time_stride": 4,
}  # fmt: skip
FILMS: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64,
    "image_size": 16, "patch_size": 8, "num_frames": 4,
}  # fmt: skip
FIELDS: dict[str, dict[str, Any]] = {
    **{name: fields for name, (_, fields, _) in CASES.items()},
    "Wav2Vec2": AUDIO,
    "AST": SPECTRA,
    "VideoMAE": FILMS,
}
WANTED: dict[str, dict[str, tuple[int, ...]]] = {
    "Bert": {"input_ids": (2, 32), "attention_mask": (2, 32)},
    "ViT": {"pixel_values": (2, 3, 32, 32)},
    "CLIP": {
        "input_ids": (2, 20), "attention_mask": (2, 20), "pixel_values": (2, 3, 32, 32)
    },
    "ConvNext": {"pixel_values": (2, 3, 224, 224)},
    "Swin": {"pixel_values": (2, 3, 16, 16)},
    "Whisper": {"input_features": (2, 8, 60), "decoder_input_ids": (2, 32)},
    "T5": {"input_ids": (2, 32), "attention_mask": (2, 32), "decoder_input_ids": (2, 32)},
    "Wav2Vec2": {"input_values": (2, 16_000)},
    "AST": {"input_values": (2, 40, 16)},
    "VideoMAE": {"pixel_values": (2, 4, 3, 16, 16)},
}  # fmt: skip


def opened(name: str, folder: Path) -> PreTrainedModel:
    typeless: Any = transformers
    getattr(typeless, f"{name}Config")(**FIELDS[name]).save_pretrained(folder)
    return build_on_shapes(folder)


@pytest.mark.parametrize("name", WANTED)
def test_an_architectures_inputs_are_found(name: str, tmp_path: Path) -> None:
    model = opened(name, tmp_path)
    found = example_inputs(model)
    assert {key: tuple(tensor.shape) for key, tensor in found.items()} == WANTED[name]
    assert {tensor.device.type for tensor in found.values()} == {"meta"}


@pytest.mark.parametrize("name", ["Whisper"])
def test_what_was_found_can_be_captured(name: str, tmp_path: Path) -> None:
    model = opened(name, tmp_path)
    graph = capture(model, (), example_inputs(model))
    assert graph.sizes
    assert {value.name for value in graph.signature.values} == set(WANTED[name])


class Asks(nn.Module):
    """Its mask may be left out; it may look at values of what it is given."""

    def __init__(self, *, looks: bool) -> None:
        super().__init__()
        self.looks = looks
        self.runs: list[str] = []

    def forward(
        self, x: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, bool]:
        fake = isinstance(x, FakeTensor)
        self.runs.append("fake" if fake else "plain")
        if self.looks and not fake and x.all():
            x = x + 1
        return x, attention_mask is not None


def test_a_forward_is_on_plain_tensors_and_without_a_mask_if_nobody_asks_for_values() -> None:
    model: Any = Asks(looks=False)
    given = {name: torch.ones(2, 3, device="meta") for name in ("x", "attention_mask")}
    x, masked = OnShapes(model)(given)
    assert (x.shape, masked, model.runs) == ((2, 3), False, ["plain"])


def test_whoever_asks_for_values_is_given_fake_tensors_from_then_on() -> None:
    model: Any = Asks(looks=True)
    given = {name: torch.ones(2, 3, device="meta") for name in ("x", "attention_mask")}
    run = OnShapes(model)
    for _ in range(2):
        x, masked = run(given)
        assert (x.shape, masked) == ((2, 3), True)
    assert model.runs == ["plain", "fake", "fake"]
    with pytest.raises(TypeError):
        run({"y": given["x"]})


def test_where_nothing_is_found_one_line_says_what_to_give(tmp_path: Path) -> None:
    typeless: Any = transformers
    typeless.TimeSeriesTransformerConfig(prediction_length=2).save_pretrained(tmp_path)
    with pytest.raises(Unsupported, match=r"takes past_values, .*give FILE\.py:FACTORY"):
        example_inputs(build_on_shapes(tmp_path))


def test_an_architecture_of_nobody_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nobodys"}')
    with pytest.raises(Unsupported, match="no model known here"):
        build_on_shapes(tmp_path)
