"""Any network over real nodes: `run`, `embed` and `classify` as a person types them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
)

from shardline.core.spans import Span
from shardline.model import load_pictures, load_tokenizer, read_pooling
from tests.support.swarms import nodes_here

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.e2e.conftest import Ended

    Command = Callable[..., Ended]

MODULE = """
import torch
from torch import nn


class Strange(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 16)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.words.weight
        self.drop = nn.Dropout(0.5)
        self.register_buffer("scale", torch.linspace(0.5, 2, 16))

    def forward(self, ids, seen, *, bias=None, twice=False):
        x = first = self.words(ids) * self.scale
        for layer in self.layers:
            x = x + self.drop(torch.tanh(layer(x))) * (2 if twice else 1)
        x = torch.cat([x, first], -1).unflatten(-1, (2, 16)).mean(-2)
        x = x + seen["image"].mean((2, 3))[:, None, :1]
        low, high = x.chunk(2, -1)
        logits = self.head(x if bias is None else x + bias)
        return {"logits": logits, "parts": [low, (high, x.max(-1).indices), None, 7], "ids": ids}


class Choosy(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Sequential(nn.Linear(8, 16), nn.Tanh()), nn.Linear(16, 4)

    def forward(self, x):
        hidden = self.encoder(x)
        for _ in range(3):
            if hidden.mean() > 0.01:
                hidden = hidden / 2
        return {"y": self.head(hidden)}


def choosy():
    torch.manual_seed(0)
    return Choosy(), (torch.rand(3, 8),)


def strange():
    torch.manual_seed(0)
    ids, image = torch.arange(12).reshape(2, 6), torch.rand(2, 3, 4, 4)
    return Strange(), (ids, {"image": image}), {"bias": torch.rand(16), "twice": True}
"""
VOCABULARY = ["[PAD]", "[UNK]", "the", "old", "dog", "slept", "a", "cat", "ran", "home"]
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
}  # fmt: skip
TEXTS = ["the old dog slept", "a cat", "the cat ran home the old cat ran"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("mine") / "strange.py"
    found.write_text(MODULE)
    return found


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence model: tokens are averaged, vectors have length 1."""
    folder = tmp_path_factory.mktemp("models") / "sentences"
    cast("Any", torch).manual_seed(0)
    config: Any = BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=16, **SIZES)
    cast("Any", BertModel(config)).save_pretrained(folder)
    words = {word: at for at, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, "[UNK]"))
    tokenizer.pre_tokenizer = cast("Any", pre_tokenizers).Whitespace()
    typeless: Any = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=16, **SPECIAL
    )
    typeless.save_pretrained(folder)
    parts = [{"type": f"models.{name}", "path": name} for name in ("Transformer", "Normalize")]
    (folder / "modules.json").write_text(json.dumps(parts))
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "pictures"
    cast("Any", torch).manual_seed(0)
    labels = {0: "cat", 1: "dog", 2: "house"}
    config: Any = ViTConfig(image_size=16, patch_size=4, id2label=labels, **SIZES)
    cast("Any", ViTForImageClassification(config)).save_pretrained(folder)
    reads = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    (folder / "preprocessor_config.json").write_text(json.dumps(reads))
    return folder


def keep(file: Path, luck: np.random.Generator, rows: int, length: int) -> None:
    given: dict[str, Any] = {
        "ids": luck.integers(0, 20, (rows, length)),
        "seen.image": luck.random((rows, 3, 4, 4)),
        "bias": luck.random(16),
    }
    np.savez(file, **given)


def test_a_module_that_nobody_has_seen_gives_its_own_bits_over_three_nodes(
    shardline_process: Command, file: Path, tmp_path: Path
) -> None:
    luck = np.random.default_rng(0)
    keep(tmp_path / "x.npz", luck, 3, 9)
    arguments = ("--inputs", tmp_path / "x.npz", "--out", tmp_path / "y.npz")
    ended = shardline_process(
        "run", f"{file}:strange", *arguments, "--nodes", 3, "--check", "--json", timeout_s=240
    )
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert (found["route"], found["model"]) == ("graph", "Strange")
    assert found["max_abs_diff"] == 0
    assert [(hop["start"], hop["stop"]) for hop in found["chain"]] == [(0, 1), (1, 2), (2, 3)]
    names = ["logits", "parts.0", "parts.1.0", "parts.1.1", "parts.3", "ids"]
    assert [output["name"] for output in found["outputs"]] == names
    with np.load(tmp_path / "y.npz") as kept:
        assert kept["logits"].shape == (3, 9, 20)


def test_a_cut_module_runs_on_a_swarm_in_parts(
    shardline: Command, file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "strange"
    ended = shardline("cut", f"{file}:strange", "--stages", 3, "--out", folder)
    assert ended.code == 0, ended.err
    luck = np.random.default_rng(0)
    keep(tmp_path / "x.npz", luck, 20, 5)
    with nodes_here(folder, [Span(0, 2), Span(2, 3)], dtype=None) as swarm:
        ended = shardline(
            "run", folder, "--inputs", tmp_path / "x.npz", "--check", "--json",
            "--batch", 6, "--invite", swarm.invite.encode(),
        )  # fmt: skip
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert sum(found["rows"]) == 20
    assert max(found["rows"]) <= 6
    assert found["max_abs_diff"] < 1e-5
    assert [(hop["start"], hop["stop"]) for hop in found["chain"]] == [(0, 2), (2, 3)]


def test_texts_get_the_vectors_of_one_process(
    shardline: Command, bert: Path, tmp_path: Path
) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS[1:]))
    with nodes_here(bert, [Span(0, 1), Span(1, 3)]) as swarm:
        invite = ("--invite", swarm.invite.encode())
        ended = shardline("embed", bert, TEXTS[0], "--file", file, "--json", *invite)
        shown = shardline("embed", bert, *TEXTS, *invite)
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    inputs = load_tokenizer(bert)(TEXTS, padding=True, return_tensors="pt")
    whole: Any = cast("Any", BertModel).from_pretrained(bert)
    with torch.no_grad():
        states = whole(**inputs).last_hidden_state
    expected = read_pooling(bert)(states, cast("Any", inputs)["attention_mask"])
    assert torch.allclose(torch.tensor(found["embeddings"]), expected, atol=1e-6)
    assert found["route"] == "chain"
    assert shown.code == 0, shown.err
    assert "1.0000" in shown.out.splitlines()[1]
    assert "3 vectors of 32 numbers" in shown.out


def test_a_model_with_a_chain_goes_by_it(shardline: Command, bert: Path) -> None:
    with nodes_here(bert, [Span(0, 2), Span(2, 3)]) as swarm:
        ended = shardline("run", bert, "--check", "--invite", swarm.invite.encode())
    assert ended.code == 0, ended.err
    assert "last_hidden_state  2x16x32  float32" in ended.out
    assert "chain: BertModel, blocks on node-0 0:2 → node-1 2:3" in ended.out
    assert "largest difference to one process: 0\n" in ended.out


def test_pictures_get_the_labels_of_one_process_from_a_cut_model(
    shardline: Command, vit: Path, tmp_path: Path
) -> None:
    image = pytest.importorskip("PIL.Image")
    luck = np.random.default_rng(0)
    files = [tmp_path / "one.png", tmp_path / "two.png"]
    for file in files:
        image.fromarray(luck.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(file)
    whole: Any = cast("Any", ViTForImageClassification).from_pretrained(vit)
    with torch.no_grad():
        scores = whole(**load_pictures(vit, files)).logits.double().softmax(-1)
    folder = tmp_path / "cut"
    ended = shardline("cut", vit, "--stages", 2, "--out", folder)
    assert ended.code == 0, ended.err
    with nodes_here(folder, [Span(0, 1), Span(1, 2)], dtype=None) as swarm:
        invite = ("--invite", swarm.invite.encode())
        ended = shardline("classify", folder, *files, "--top", 2, "--json", *invite)
        shown = shardline("classify", folder, *files, *invite)
        wrong = shardline("classify", folder, vit / "config.json", *invite)
    assert ended.code == 0, ended.err
    for row, expected in zip(json.loads(ended.out)["images"], scores, strict=True):
        assert [one["score"] for one in row["labels"]] == pytest.approx(
            sorted(expected.tolist(), reverse=True)[:2], abs=1e-6
        )
        assert row["labels"][0]["label"] == whole.config.id2label[int(expected.argmax())]
    assert shown.code == 0, shown.err
    assert "house" in shown.out
    wrong.one_line(2, "config.json cannot be read as a picture")


def test_a_module_that_cannot_be_captured_has_its_parts_on_nodes(
    shardline_process: Command, file: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).random((5, 8)))
    parts = ("--cut", "encoder", "--cut", "head", "--inputs", tmp_path / "x.npz", "--nodes", 3)
    ended = shardline_process("run", f"{file}:choosy", *parts, "--check", "--json", timeout_s=240)
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert (found["route"], found["max_abs_diff"]) == ("modules", 0)
    assert found["outputs"] == [{"name": "y", "shape": [5, 4], "dtype": "float32"}]
    assert [(hop["part"], hop["start"]) for hop in found["chain"]] == [
        ("encoder", 0), ("encoder", 1), ("head", 0),
    ]  # fmt: skip
