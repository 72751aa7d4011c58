"""Inputs and outputs as arrays by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from shardline.cli.run_arrays import (
    arguments_of,
    leaves_by_name,
    plain_tensors,
    read_arrays,
    tensors_for,
    write_arrays,
)
from shardline.core.errors import BadInput
from shardline.model import Signature, capture

if TYPE_CHECKING:
    from pathlib import Path


class Nested(nn.Module):
    """A positional dictionary, a list by keyword, a constant."""

    def forward(
        self,
        x: torch.Tensor,
        seen: dict[str, torch.Tensor],
        *,
        more: list[torch.Tensor],
        twice: bool = False,
    ) -> torch.Tensor:
        found = x + seen["image"].sum(-1) + more[0].float()
        return found * 2 if twice else found


@pytest.fixture(scope="module")
def signature() -> Signature:
    args = (torch.ones(2, 3), {"image": torch.ones(2, 3, 4)})
    kwargs = {"more": [torch.ones(2, 3, dtype=torch.long)], "twice": True}
    return capture(Nested(), args, kwargs).signature


def arrays(**changed: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "x": np.full((5, 3), 0.5),
        "seen.image": np.ones((5, 3, 4), np.float32),
        "more.0": np.ones((5, 3), np.int32),
    }
    return {name: value for name, value in (given | changed).items() if value is not None}


def kept(file: Path, **given: Any) -> Path:
    with file.open("wb") as stream:
        np.savez(stream, **given)
    return file


def test_names_have_dots_for_what_lies_deeper(signature: Signature, tmp_path: Path) -> None:
    assert list(signature.asked()) == ["x", "seen.image", "more.0"]
    file = kept(tmp_path / "x.npz", **arrays())
    args, kwargs = signature.call(tensors_for("Nested", signature.asked(), file))
    assert torch.equal(args[0], torch.full((5, 3), 0.5))
    assert args[1]["image"].shape == (5, 3, 4)
    assert kwargs["more"][0].dtype is torch.long
    assert kwargs["twice"] is True
    signature.bind(*args, **kwargs)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"x": None},
            "lacks x: Nested takes x float32 (any, any), seen.image float32 (any, any, 4)",
        ),
        ({"y": np.ones(2)}, "has y too"),
        ({"seen.image": np.ones((5, 3, 2))}, "seen.image is float64 (5, 3, 2), not float32"),
        ({"x": np.ones(5)}, "x is float64 (5,), not float32 (any, any)"),
        ({"more.0": np.ones((5, 3))}, "more.0 is float64 (5, 3), not int64"),
    ],
)
def test_what_does_not_fit_is_named(
    signature: Signature, tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    file = kept(tmp_path / "x.npz", **arrays(**changed))
    with pytest.raises(BadInput) as refused:
        tensors_for("Nested", signature.asked(), file)
    assert words in str(refused.value)


def test_python_objects_are_not_unpickled(tmp_path: Path) -> None:
    file = kept(tmp_path / "x.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(BadInput, match=r"no \.npz of plain arrays: .* holds Python objects$"):
        read_arrays(file)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\3\4 and then nothing", b"\x93NUMPY"])
def test_other_files_are_refused_and_nobody_is_told_to_unpickle_them(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(BadInput, match=r"x\.npz") as refused:
        read_arrays(tmp_path / "x.npz")
    assert "pickle" not in str(refused.value)


def test_a_model_takes_numbers_only() -> None:
    found = plain_tensors({"ids": np.ones(2, np.int32), "mask": np.ones(2, bool), "x": np.ones(2)})
    assert [value.dtype for value in found.values()] == [torch.int64, torch.bool, torch.float32]
    for odd in (np.array(["a"]), np.ones(2, complex), np.array(["2026-01-01"], "M8[D]")):
        with pytest.raises(BadInput, match=r"x is .*: give whole numbers, floats or booleans"):
            plain_tensors({"x": odd})


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones(3))
    with pytest.raises(BadInput, match="save it by name"):
        read_arrays(tmp_path / "x.npy")


def test_a_call_by_names_keeps_all_but_its_tensors(tmp_path: Path) -> None:
    args = (torch.ones(2, 3), {"image": torch.ones(2, 3, 4)})
    more = [torch.ones(2, 3, dtype=torch.long)]
    file = kept(tmp_path / "x.npz", **arrays())
    (x, seen), found = arguments_of(Nested(), args, {"more": more, "twice": True}, file)
    assert x.shape == (5, 3)
    assert seen["image"].shape == (5, 3, 4)
    assert found["more"][0].dtype is torch.long
    assert found["twice"] is True
    with pytest.raises(BadInput, match=r"lacks more\.1: Nested takes x float32 \(any, any\)"):
        arguments_of(Nested(), args, {"more": [*more, *more]}, file)


def test_results_are_kept_by_name(tmp_path: Path) -> None:
    output = {"y": torch.ones(2), "parts": [torch.zeros(1), None, (torch.tensor(3),)], "n": 7}
    assert [name for name, _ in leaves_by_name(output)] == ["y", "parts.0", "parts.2.0", "n"]
    write_arrays(tmp_path / "y.npz", output)
    found = read_arrays(tmp_path / "y.npz")
    assert set(found) == {"y", "parts.0", "parts.2.0"}
    write_arrays(tmp_path / "z.npz", torch.ones(2, dtype=torch.bfloat16))
    assert read_arrays(tmp_path / "z.npz")["output"].dtype == np.float32
