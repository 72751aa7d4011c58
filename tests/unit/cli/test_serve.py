"""What a person says about weights, and what becomes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shardline.cli import looking
from shardline.cli.main import run
from shardline.cli.serve import CACHES, QUANTISED, tell
from shardline.model import CACHES as BUILT
from shardline.model import GRAPH_TERMS, KINDS, STEP_TOKENS, PagedLayer
from shardline.node import Serving
from tests.unit.swarm.making import record

if TYPE_CHECKING:
    from collections.abc import Sequence
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
    assert looking.GRAPH == GRAPH_TERMS
    assert tuple(BUILT) == CACHES


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
    ("said", "cores", "threads"),
    [
        ("", None, None),
        ("--cores 0-1", (0, 1), 2),
        ("--cores 1,0", (0, 1), 2),
        ("--cores 3", (3,), 1),
        ("--cores 0-3 --threads 2", (0, 1, 2, 3), 2),
    ],
)
def test_a_node_on_some_cores_has_a_thread_for_each(
    said: str,
    cores: tuple[int, ...] | None,
    threads: int | None,
    settings: list[Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pinned: list[Sequence[int]] = []
    monkeypatch.setattr("shardline.cli.serve.pin", pinned.append)
    monkeypatch.setattr("shardline.cli.cores.free_cores", lambda: (0, 1, 2, 3))
    assert run(["serve", "model", *said.split()]) == 0
    assert pinned == ([] if cores is None else [cores])
    assert settings[0].threads == threads


@pytest.mark.parametrize(
    "said", ["--weights bf16 --dtype float32", "--weights int4 --outliers 6", "--outliers 6"]
)
def test_contradictions_are_bad_input(said: str, settings: list[Settings]) -> None:
    assert run(["serve", "model", *said.split()]) == 2
    assert not settings


def test_a_cache_is_as_it_is_computed_or_in_8_bits(settings: list[Settings]) -> None:
    assert run(["serve", "model"]) == 0
    assert run(["serve", "model", "--cache", "int8", "--weights", "int8"]) == 0
    assert [node.cache for node in settings] == [PagedLayer, BUILT["int8"]]


def test_a_cache_that_is_not_built_is_one_calm_line(
    settings: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", "model", "--cache", "int4"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--cache" in said
    assert "int8" in said
    assert not settings


def test_one_line_says_which_blocks_keep_their_cache_as_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = record(dtype="float32+cache8")
    tell(Serving(told, (), 2**20, 1.0))
    assert capsys.readouterr().out.count("\n") == 1
    tell(Serving(told, (), 2**20, 1.0, cache_whole=2))
    _, line = capsys.readouterr().out.splitlines()
    assert line.startswith(f"cache kept in float32: that of 2 of {told.blocks} blocks")


def test_a_graphs_node_tells_of_stages_and_of_room_for_steps(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = record(dtype=GRAPH_TERMS, cache_tokens_total=3 * STEP_TOKENS)
    tell(Serving(told, (), 2**20, 1.0))
    line = capsys.readouterr().out
    assert f"serves stages {told.span} of {told.blocks}" in line
    assert "room for 3 steps" in line
