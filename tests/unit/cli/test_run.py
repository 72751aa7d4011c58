"""`shardline run` and `shardline cut`: what is refused before any node starts, and folders."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from shardline.cli.embed import POOLINGS
from shardline.cli.graphs import place_well
from shardline.cli.main import run
from shardline.cli.run_jobs import taken
from shardline.core.units import format_bytes
from shardline.model import POOLINGS as POOLINGS_BUILT
from shardline.model import capture, cut_graph, open_graph, with_rows
from shardline.swarm import Invite
from tests.support.factories import write_factories
from tests.support.graphs import some, towers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str]) -> Ask:
    def asked(*arguments: object) -> tuple[int, str, str]:
        code = run([str(one) for one in arguments])
        seen = capfd.readouterr()
        return code, seen.out, seen.err

    return asked


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_factories(tmp_path_factory.mktemp("mine"))


@pytest.fixture(scope="module")
def folder(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cut") / "twins"
    assert run(["cut", f"{file}:twins", "--stages", "2", "--out", str(out)]) == 0
    return out


def refused(asked: tuple[int, str, str], *words: str) -> None:
    code, out, err = asked
    assert (code, out) == (2, ""), err
    line = err.splitlines()[-1]
    assert line.startswith("shardline: ")
    assert "Traceback" not in err
    for word in words:
        assert word in line, line


# --- RUN ---


def test_code_that_cannot_be_captured_is_named_with_two_ways_out(ask: Ask, file: Path) -> None:
    asked = ask("run", f"{file}:choosy")
    refused(asked, "`if x.sum() > 0:`", "mine.py:20", "Change that line", "--cut")


def test_missing_inputs_are_named_with_what_is_wanted(ask: Ask, file: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.ones((3, 8)))
    asked = ask("run", f"{file}:twins", "--inputs", tmp_path / "x.npz")
    refused(asked, "lacks skip", "x float32 (any, 8)")


def test_inputs_of_another_shape_are_named(ask: Ask, file: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.ones((3, 9)), skip=np.ones((3, 8)))
    asked = ask("run", f"{file}:twins", "--inputs", tmp_path / "x.npz")
    refused(asked, "x is float64 (3, 9), not float32 (any, 8)")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--inputs", "nowhere.npz"], "there is no file nowhere.npz"),
        (["--out", "nowhere/y.npz"], "for y.npz"),
        (["--out", "/"], "/ is a folder: give a file"),
        (["--cut", ""], "--cut takes the name of a part"),
        (["--nodes", "2", "--invite", "x"], "give one of them"),
        (["--invite", Invite.new().encode()], "`shardline cut` writes one"),
        (["--invite", "nonsense"], "invite"),
        (["--nodes", "60"], "cannot be cut into 60 stages"),
    ],
)
def test_odd_options_are_refused(ask: Ask, file: Path, arguments: list[str], words: str) -> None:
    refused(ask("run", f"{file}:twins", *arguments), words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cut", "middle"], "there is no part middle: parts there are one, two"),
        (["--cut", "one.weight"], "there is no part one.weight"),
        (["--cut", "one", "--cut", "two", "--nodes", "1"], "give --nodes 2"),
        (["--cut", "one", "--inputs", "mine.py"], "mine.py is no .npz of plain arrays"),
    ],
)
def test_odd_parts_are_refused(
    ask: Ask, file: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(file.parent)
    refused(ask("run", f"{file}:twins", *arguments), words)


def test_parts_are_those_of_a_persons_own_module(ask: Ask, folder: Path) -> None:
    refused(ask("run", folder, "--cut", "one"), "--cut is for FILE.py:FACTORY")


def test_a_cut_graph_wants_inputs_and_no_more_nodes_than_stages(
    ask: Ask, folder: Path, tmp_path: Path
) -> None:
    refused(ask("run", folder), "give --inputs", "Twins takes x float32 (any, 8), skip")
    np.savez(tmp_path / "x.npz", x=np.ones((3, 8)), skip=np.ones((3, 8)))
    asked = ask("run", folder, "--inputs", tmp_path / "x.npz", "--nodes", 3)
    refused(asked, "2 blocks cannot be held by 3 nodes")


# --- CUT ---


def test_a_folder_is_written_that_says_what_to_type_next(
    ask: Ask, file: Path, tmp_path: Path
) -> None:
    code, out, err = ask("cut", f"{file}:twins", "--stages", 2, "--out", tmp_path / "twins")
    assert code == 0, err
    assert "a person may print" in err
    head, one, _, name, first, second, call = out.splitlines()
    assert head.split() == ["stage", "weights", "work", "values", "in", "values", "out"]
    assert one.split()[0] == "0:1"
    assert name.startswith("Twins in ")
    assert first.endswith("--blocks 0:1")
    assert second.endswith("--blocks 1:2 --join INVITE")
    assert call.startswith("  shardline run ")
    plan = open_graph(tmp_path / "twins")
    assert plan.blocks == 2
    assert format_bytes(plan.stages[0].parameter_bytes) in one
    assert plan.signature().rows["x"] == 0


def test_a_cut_as_json(ask: Ask, file: Path, folder: Path) -> None:
    code, out, _ = ask("cut", f"{file}:twins", "--stages", 2, "--out", folder, "--json")
    assert code == 0, "a folder with a cut graph may be written again"
    found = json.loads(out)
    assert len(found["stages"]) == 2
    assert sum(stage["work"] for stage in found["stages"]) == pytest.approx(1)
    assert found["fingerprint"] == open_graph(folder).fingerprint


def test_other_peoples_folders_are_left_alone(ask: Ask, file: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    refused(ask("cut", f"{file}:twins", "--out", tmp_path), "has other files in it")
    refused(ask("cut", f"{file}:twins", "--out", tmp_path / "letter.txt"), "is a file")


def test_a_changed_signature_is_noticed(ask: Ask, folder: Path, tmp_path: Path) -> None:
    there = tmp_path / "twins"
    shutil.copytree(folder, there)
    text = (there / "signature.json").read_text()
    (there / "signature.json").write_text(text.replace("Twins", "Other"))
    refused(ask("run", there, "--inputs", there / "graph.json"), "signature.json", "changed")


def test_inputs_of_zeros_that_a_cut_graph_does_not_know_are_left_out(folder: Path) -> None:
    given = {"x": torch.ones(2, 8), "token_type_ids": torch.zeros(2, 3), "odd": torch.ones(1)}
    assert list(taken(str(folder), given)) == ["x", "odd"]
    assert taken("owner/name", given) == given


def test_the_better_of_two_placings_is_taken_and_can_be_cut() -> None:
    graph = with_rows(capture(towers(), (), some()), (), some())
    for stages in (1, 2, 3):
        assert len(cut_graph(graph, place_well(graph, stages))) == stages
    assert set(graph.signature.rows) >= {"words", "image"}


def test_vectors_that_cannot_be_kept_are_not_made(ask: Ask) -> None:
    refused(ask("embed", "owner/name", "text", "--out", "nowhere/y.npz"), "for y.npz")


def test_poolings_are_those_that_are_built() -> None:
    assert POOLINGS == POOLINGS_BUILT
