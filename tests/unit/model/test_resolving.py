from __future__ import annotations

from typing import TYPE_CHECKING, Any

import huggingface_hub
import pytest
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from shardline.core.errors import NoSuchModel
from shardline.model import resolve

if TYPE_CHECKING:
    from pathlib import Path


def test_a_directory_is_itself(llama: Path) -> None:
    assert resolve(str(llama)) == llama


def test_a_directory_without_a_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(NoSuchModel, match=r"without a config\.json"):
        resolve(str(tmp_path))


def test_a_file_is_no_model(llama: Path) -> None:
    with pytest.raises(NoSuchModel, match="is a file"):
        resolve(str(llama / "config.json"))


@pytest.mark.parametrize(
    "error", [LocalEntryNotFoundError("offline\nmore"), HFValidationError("?"), OSError("a\nb")]
)
def test_neither_directory_nor_hub_id_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(NoSuchModel, match="no directory 'some/model'") as caught:
        resolve("some/model")
    assert "\n" not in str(caught.value)


def test_a_hub_id_is_downloaded_without_pickles(
    monkeypatch: pytest.MonkeyPatch, llama: Path
) -> None:
    asked: dict[str, list[str]] = {}

    def download(model: str, *, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        assert model == "some/model"
        asked.update(allow=allow_patterns, ignore=ignore_patterns)
        return str(llama)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve("some/model") == llama
    assert "*.bin" not in asked["allow"]
    assert "*.bin" in asked["ignore"]
