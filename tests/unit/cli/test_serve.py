"""What a person says about weights, and what becomes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shardline.cli.main import run
from shardline.cli.serve import QUANTISED
from shardline.model import KINDS

if TYPE_CHECKING:
    from pathlib import Path

    from shardline.node import Settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Those of the nodes that were started; none really is."""
    monkeypatch.setenv("SHARDLINE_HOME", str(tmp_path))
    found: list[Settings] = []

    async def note(settings: Settings, *_: object) -> None:
        found.append(settings)

    monkeypatch.setattr("shardline.cli.serve._serve", note)
    return found


def test_the_choices_are_those_that_are_built() -> None:
    assert tuple(KINDS) == QUANTISED


@pytest.mark.parametrize(
    ("said", "dtype", "word"),
    [
        ("", None, None),
        ("--dtype float32", "float32", None),
        ("--weights bf16", "bfloat16", None),
        ("--weights fp32 --dtype float32", "float32", None),
        ("--weights int8", None, "int8"),
        ("--weights int8 --outliers 4.5", None, "int8@4.5"),
        ("--weights int4 --dtype float32", "float32", "int4"),
    ],
)
def test_16_and_32_bits_are_the_dtype_and_fewer_are_held_beside_it(
    said: str, dtype: str | None, word: str | None, settings: list[Settings], tmp_path: Path
) -> None:
    assert run(["serve", "model", *said.split()]) == 0
    (node,) = settings
    assert node.dtype == dtype
    assert (node.weights and node.weights.word) == word
    assert node.weights_folder == tmp_path / "weights"


@pytest.mark.parametrize(
    "said", ["--weights bf16 --dtype float32", "--weights int4 --outliers 6", "--outliers 6"]
)
def test_contradictions_are_bad_input(said: str, settings: list[Settings]) -> None:
    assert run(["serve", "model", *said.split()]) == 2
    assert not settings
