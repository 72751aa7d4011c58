"""`shardline plan precompute`: schemes made, kept in a file, and added to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from shardline.cli.main import run
from shardline.partition import Library

if TYPE_CHECKING:
    from pathlib import Path

SMALL = ["plan", "precompute", "--nodes-count", "4", "--blocks-count", "6", "--family", "lan"]


def test_the_same_options_write_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = (tmp_path / name for name in ("first.json", "again.json"))
    for file in (first, again):
        assert run([*SMALL, "--seed", "3", "--out", str(file), "--json"]) == 0
        [row] = json.loads(capsys.readouterr().out)["rows"]
        assert row["name"] == "lan 4x6 seed 3"
        assert row["throughput_ratio"] >= 1
    assert first.read_bytes() == again.read_bytes()


def test_a_library_is_extended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "schemes.json"
    assert run([*SMALL, "--out", str(file)]) == 0
    assert run([*SMALL, "--seed", "5", "--out", str(file)]) == 0
    assert "lan 4x6 seed 5" in capsys.readouterr().out
    names = [scheme.name for scheme in Library.from_bytes(file.read_bytes()).schemes]
    assert names == ["lan 4x6 seed 0", "lan 4x6 seed 5"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--family", "galaxy"], "no family 'galaxy': there are lan"),
        (["--out", "BAD"], "no library of schemes"),
        (["--out", "nowhere/schemes.json"], "cannot be written"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    assert run([*SMALL, *(str(bad) if word == "BAD" else word for word in options)]) != 0
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_help_says_what_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "precompute", "--help"]) == 0
    out = capsys.readouterr().out
    assert "Usage: shardline plan precompute [OPTIONS]" in out
    assert "--nodes-count" in out
