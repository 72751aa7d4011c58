"""Models with made-up weights: written once, the same everywhere, never without room."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest
import torch
from transformers import AutoModelForCausalLM

from shardline.cli import bench_shapes
from shardline.cli.bench_shapes import SHAPES, shaped_model
from shardline.cli.demo import shipped_model
from shardline.core.errors import BadInput
from shardline.model import trace

if TYPE_CHECKING:
    from pathlib import Path


class Usage(NamedTuple):
    """As shutil's."""

    total: int
    used: int
    free: int


TINY = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more shape, in files of about a tensor each."""
    shapes: dict[str, Any] = {**vars(bench_shapes)["_LLAMAS"], "tiny": TINY}
    monkeypatch.setattr(bench_shapes, "_LLAMAS", shapes)
    monkeypatch.setattr(bench_shapes, "FILE_BYTES", 2048)


def test_a_shape_is_written_once_and_its_size_told_before(tmp_path: Path) -> None:
    told: list[str] = []
    place = shaped_model("tiny", tmp_path / "models", told.append)
    assert told == [f"writing 13.2 KiB of made-up weights to {place}, this once"]
    assert len(list(place.glob("*.safetensors"))) > 1
    assert shaped_model("tiny", tmp_path / "models", told.append) == place
    assert len(told) == 1
    assert [path.name for path in place.parent.iterdir()] == ["tiny"]


def test_every_machine_writes_a_model_of_the_same_weights(tmp_path: Path) -> None:
    places = [shaped_model("tiny", tmp_path / name, lambda _: None) for name in "ab"]
    assert trace(places[0]).blocks == 2
    models = [cast("Any", AutoModelForCausalLM).from_pretrained(place) for place in places]
    ours, theirs = (model.state_dict() for model in models)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    weights = ours["model.layers.0.mlp.up_proj.weight"]
    assert weights.dtype == torch.bfloat16
    assert 0.01 < weights.float().std() < 0.03


def test_a_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def usage(_: Path) -> Usage:
        return Usage(100, 90, 10)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(BadInput, match=r"tiny takes 13\.2 KiB in .*, and 10 B are free"):
        shaped_model("tiny", tmp_path / "models", pytest.fail)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(BadInput, match="cannot be written"):
        shaped_model("tiny", tmp_path / "models", pytest.fail)


def test_the_shipped_model_is_a_shape_of_its_own(tmp_path: Path) -> None:
    assert shaped_model(SHAPES[0], tmp_path, pytest.fail) == shipped_model()
