"""The graph route on models of Transformers, tiny and random, over 2 and 3 stages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
import transformers

from shardline.model import quiet
from tests.parity.encoders import (
    CLIP,
    PICTURE,
    SWIN,
    T5,
    TOKENS,
    TOWER,
    WHISPER,
    Inputs,
    pictures,
    sounds,
    texts,
)
from tests.parity.graphs import difference

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

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
