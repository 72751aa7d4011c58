from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
import torch

from shardline.core.errors import CorruptWeights, NoSuchModel
from shardline.core.spans import Span
from shardline.model import fingerprint, load_ends, load_span, trace
from shardline.model.files import WeightFiles
from tests.parity.chains import CPU, LocalChain
from tests.parity.zoo import read_tensors, write_tensors

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def copy(llama: Path, tmp_path: Path) -> Path:
    return shutil.copytree(llama, tmp_path / "model")


def load_all(directory: Path) -> None:
    plan = trace(directory)
    load_span(plan, Span(0, plan.blocks), dtype=torch.float32, device=CPU)
    load_ends(plan, LocalChain([]), dtype=torch.float32, device=CPU)


def damage(file: Path, how: str) -> None:
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    broken = {
        "truncated": data[:-100],
        "empty": b"",
        "a text": b"version https://git-lfs.github.com/spec/v1\n",
        "header cut": data[: 8 + length // 2],
        "header no JSON": data[:8] + b"?" * length + data[8 + length :],
        "header a list": (2).to_bytes(8, "little") + b"[]" + data[8 + length :],
    }
    file.write_bytes(broken[how])


@pytest.mark.parametrize(
    "how", ["truncated", "empty", "a text", "header cut", "header no JSON", "header a list"]
)
def test_a_damaged_file_is_named(copy: Path, how: str) -> None:
    damage(copy / "model.safetensors", how)
    for read in (load_all, fingerprint):
        with pytest.raises(CorruptWeights, match=r"model\.safetensors") as caught:
            read(copy)
        assert "\n" not in str(caught.value)


def test_a_truncated_file_says_how_much_is_missing(copy: Path) -> None:
    damage(copy / "model.safetensors", "truncated")
    with pytest.raises(CorruptWeights, match="truncated, the last 100 bytes are missing"):
        load_all(copy)


def test_offsets_that_overlap_or_leave_holes_are_refused(copy: Path) -> None:
    file = copy / "model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    fields = json.loads(data[8 : 8 + length])
    name = "model.layers.1.mlp.up_proj.weight"
    fields[name]["data_offsets"] = [0, 8]
    header = json.dumps(fields).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    with pytest.raises(CorruptWeights, match=r"model\.safetensors"):
        load_all(copy)


@pytest.mark.parametrize("name", ["model.layers.2.mlp.up_proj.weight", "model.norm.weight"])
def test_a_missing_tensor_is_named_and_never_made_up(copy: Path, name: str) -> None:
    tensors = read_tensors(copy / "model.safetensors")
    del tensors[name]
    write_tensors(copy / "model.safetensors", tensors)
    with pytest.raises(CorruptWeights, match=name):
        load_all(copy)


@pytest.mark.parametrize("name", ["model.layers.2.mlp.up_proj.weight", "lm_head.weight"])
def test_a_tensor_of_another_shape_is_refused(copy: Path, name: str) -> None:
    tensors = read_tensors(copy / "model.safetensors")
    tensors[name] = torch.zeros(3, 5)
    write_tensors(copy / "model.safetensors", tensors)
    with pytest.raises(
        CorruptWeights, match=rf"model\.safetensors: tensor {name} .* \(3, 5\), not"
    ):
        load_all(copy)


@pytest.mark.parametrize("file", ["../elsewhere.safetensors", "/etc/passwd", "weights.bin"])
def test_an_index_cannot_name_files_elsewhere(copy: Path, file: str) -> None:
    index = {"weight_map": {"model.norm.weight": file}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CorruptWeights, match="no safetensors file beside it"):
        WeightFiles.of(copy)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}'])
def test_a_broken_index_is_named(copy: Path, text: str) -> None:
    (copy / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CorruptWeights, match=r"index\.json"):
        WeightFiles.of(copy)


def test_pickles_are_not_loaded_and_said_to_be_so(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(NoSuchModel, match="pickle"):
        load_all(copy)
