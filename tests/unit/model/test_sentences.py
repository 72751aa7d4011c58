"""Pooling of tokens as the folders of sentence models say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from shardline.core.errors import CorruptWeights, Unsupported
from shardline.model.sentences import Pooling, read_pooling

if TYPE_CHECKING:
    from pathlib import Path

STATES = torch.tensor([[[3.0, 4.0], [5.0, 2.0], [9.0, 9.0]], [[1.0, 1.0], [1.0, 3.0], [4.0, 2.0]]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {
        "idx": 2,
        "name": "2",
        "path": "2_Normalize",
        "type": "sentence_transformers.models.Normalize",
    },
]


def folder(path: Path, modules: list[dict[str, Any]], pooling: dict[str, Any]) -> Path:
    (path / "1_Pooling").mkdir()
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return path


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("mean", [[4, 3], [2, 2]]), ("cls", [[3, 4], [1, 1]]), ("max", [[5, 4], [4, 3]])],
)
def test_padding_is_left_out(kind: str, expected: list[list[float]]) -> None:
    assert torch.equal(Pooling(kind)(STATES, MASK), torch.tensor(expected).float())


def test_vectors_are_given_length_one_where_the_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "sentence_bert_config.json").write_text(
        '{"max_seq_length": 12, "do_lower_case": false}'
    )
    flags = {"word_embedding_dimension": 2, "pooling_mode_mean_tokens": True}
    found = read_pooling(folder(tmp_path, MODULES, flags))
    assert found == Pooling("mean", unit=True, tokens=12)
    assert torch.allclose(found(STATES, MASK).square().sum(-1), torch.ones(2))


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode": "max"}, "max"),
        ({"pooling_mode_max_tokens": True}, "max"),
    ],
)
def test_the_folder_names_its_pooling(tmp_path: Path, flags: dict[str, Any], kind: str) -> None:
    path = folder(tmp_path, MODULES[:2], flags)
    assert read_pooling(path) == Pooling(kind)
    assert read_pooling(path, "mean") == Pooling("mean")


def test_a_folder_that_says_nothing_gets_the_mean(tmp_path: Path) -> None:
    assert read_pooling(tmp_path) == Pooling("mean")


@pytest.mark.parametrize(
    ("modules", "flags", "words"),
    [
        (MODULES, {"pooling_mode_lasttoken": True}, "pools by lasttoken"),
        (MODULES, {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, "cls and max"),
        ([*MODULES, {"type": "sentence_transformers.models.Dense", "path": "3"}], {}, "Dense"),
    ],
)
def test_what_is_not_built_is_named(
    tmp_path: Path, modules: list[dict[str, Any]], flags: dict[str, Any], words: str
) -> None:
    flags = flags or {"pooling_mode_mean_tokens": True}
    with pytest.raises(Unsupported, match=words):
        read_pooling(folder(tmp_path, modules, flags))


def test_broken_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[{")
    with pytest.raises(CorruptWeights, match=r"modules\.json"):
        read_pooling(tmp_path)
