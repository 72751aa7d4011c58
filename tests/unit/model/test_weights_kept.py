from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import torch

from shardline.model import KINDS, Kind, kind_named
from shardline.model.int8 import MixedInt8
from shardline.model.weights_kept import product_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    return kind_named(request.param)


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(32, 128, generator=torch.Generator().manual_seed(0)).bfloat16()


X = 20 * torch.randn(3, 128, generator=torch.Generator().manual_seed(1))


def error(found: torch.Tensor, weight: torch.Tensor) -> float:
    exact = X @ weight.float().t()
    return float(((found - exact).square().sum() / exact.square().sum()).sqrt())


def only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def forbid_quantising(kind: Kind, patch: pytest.MonkeyPatch) -> None:
    def never(_self: Kind, _weight: torch.Tensor) -> Any:
        raise AssertionError("quantised once more")

    patch.setattr(type(kind), "quantise", never)


def test_a_weight_is_quantised_once(
    kind: Kind, weight: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = product_of(weight, kind, tmp_path)(X)
    forbid_quantising(kind, monkeypatch)
    assert torch.equal(product_of(weight.clone(), kind, tmp_path)(X), made)
    with pytest.raises(AssertionError):
        product_of(weight + 1, kind, tmp_path)


def test_other_settings_are_another_file(weight: torch.Tensor, tmp_path: Path) -> None:
    product_of(weight, MixedInt8(), tmp_path)
    product_of(weight, MixedInt8(3.0), tmp_path)
    product_of(weight.float(), MixedInt8(), tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    """One bit of the last tensor but the exact ones: of the scale."""
    return data[:-1] + bytes([data[-1] ^ 1])


def other(_: bytes) -> bytes:
    return b"garbage" * 100


@pytest.mark.parametrize("spoil", [truncate, flip, other])
def test_a_file_that_is_not_what_was_written_is_made_anew(
    spoil: Any, kind: Kind, weight: torch.Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = product_of(weight, kind, tmp_path)(X)
    file = only_file(tmp_path)
    whole = file.read_bytes()
    file.unlink()  # what is mapped stays as it was
    file.write_bytes(spoil(whole))
    assert torch.equal(product_of(weight, kind, tmp_path)(X), made)
    assert "made anew" in caplog.text
    assert only_file(tmp_path).read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_a_warning(
    kind: Kind, weight: torch.Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    with caplog.at_level(logging.WARNING):
        found = product_of(weight, kind, taken / "weights")(X)
    assert "cannot be kept" in caplog.text
    assert error(found, weight) < 0.15


def test_columns_in_16_bits_are_read_from_disk_not_held(
    weight: torch.Tensor, tmp_path: Path
) -> None:
    kind = MixedInt8()
    held = product_of(weight, kind, tmp_path)
    assert held.memory_bytes == kind.memory_bytes(32, 128)
    assert only_file(tmp_path).stat().st_size > 3 * weight.numel()
    beyond, within = held(X), product_of(weight, kind, None)(X)
    assert error(beyond, weight) < error(within, weight)
