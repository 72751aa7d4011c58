from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest
import torch

from shardline.core.errors import CorruptWeights, NoSuchModel
from shardline.model import fingerprint
from tests.parity.zoo import make, named, read_tensors, write_tensors

if TYPE_CHECKING:
    from pathlib import Path


def test_a_copy_has_the_same_fingerprint_whatever_wrote_it(llama: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(llama, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config |= {"transformers_version": "9.9.9", "_name_or_path": "someone/else"}
    (copy / "config.json").write_text(json.dumps(dict(reversed(config.items())), indent=7))
    assert fingerprint(copy) == fingerprint(llama)
    assert re.fullmatch(r"[0-9a-f]{32}", fingerprint(copy))


def test_two_fine_tunes_differ(llama: Path, tmp_path: Path) -> None:
    make(named("llama"), tmp_path, seed=1)
    assert fingerprint(tmp_path) != fingerprint(llama)


@pytest.mark.parametrize("name", ["model.layers.3.self_attn.q_proj.weight", "lm_head.weight"])
def test_a_fine_tune_of_one_tensor_differs(llama: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(llama, tmp_path / "copy")
    tensors = read_tensors(copy / "model.safetensors")
    tensors[name] = tensors[name] + 0.01 * torch.ones_like(tensors[name])
    write_tensors(copy / "model.safetensors", tensors)
    assert fingerprint(copy) != fingerprint(llama)


def test_another_config_over_the_same_weights_differs(llama: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(llama, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["rms_norm_eps"] = 0.5
    (copy / "config.json").write_text(json.dumps(config))
    assert fingerprint(copy) != fingerprint(llama)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_config_is_named(llama: Path, tmp_path: Path, text: str) -> None:
    copy = shutil.copytree(llama, tmp_path / "copy")
    (copy / "config.json").write_text(text)
    with pytest.raises(CorruptWeights, match=r"config\.json"):
        fingerprint(copy)


def test_no_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(NoSuchModel):
        fingerprint(tmp_path)
