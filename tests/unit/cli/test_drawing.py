"""The drawing of a plan: what it shows, that it is the same each time, and what is refused."""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ET
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pytest

from shardline.cli.demo import shipped_model
from shardline.cli.drawing import draw
from shardline.cli.main import run
from shardline.cli.sketch import Box, hull, label_places, sketch
from shardline.partition import Block, Node, Problem, make, plan
from tests.unit.cli.test_plan import TWO, small

if TYPE_CHECKING:
    from pathlib import Path

    from shardline.partition import Plan

NO_LINES = np.empty((0, 2))


@pytest.fixture(scope="module")
def ring() -> tuple[Problem, Plan]:
    problem = make("ring", 12, 16, seed=1)
    return problem, plan(problem, "greedy")


def words(file: Path) -> str:
    return " ".join(ET.parse(file).getroot().itertext())  # noqa: S314  (our own file)


def asked(tmp_path: Path, *options: str, text: str = small(TWO)) -> int:
    nodes = tmp_path / "nodes.toml"
    nodes.write_text(text)
    command = ["plan", str(shipped_model()), "--nodes", str(nodes), "--tokens", "512", *options]
    return run(command)


# --- THE FILE ---


def test_plan_draws_the_chain_as_text(tmp_path: Path) -> None:
    file = tmp_path / "plan.svg"
    assert asked(tmp_path, "--draw", str(file)) == 0
    said = words(file)
    for word in ("quick", "slow", "caller", "fable-2m: 8 blocks, 2 nodes", "proven the best"):
        assert word in said, word


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_same_plan_gives_the_same_bytes(
    kind: str, tmp_path: Path, ring: tuple[Problem, Plan]
) -> None:
    first, again = (tmp_path / f"{name}.{kind}" for name in ("first", "again"))
    for file in (first, again):
        draw(file, *ring, "a ring")
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes()[:4] in {b"\x89PNG", b"<?xm"}


def test_letters_that_no_font_has_are_drawn_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.PNG"
    assert asked(tmp_path, "--draw", str(file), text=small(TWO).replace("quick", "書斎")) == 0
    assert file.stat().st_size > 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("objective", ["throughput", "latency"])
def test_one_node_and_no_limits_are_drawn_too(objective: str, tmp_path: Path) -> None:
    block, node = Block(0.001, 10, 10), Node("only", 100)
    problem = Problem((block,) * 3, (node,), np.full((2, 2), 0.001), np.full((2, 2), np.inf))
    file = tmp_path / "plan.svg"
    draw(file, problem, plan(problem, objective=objective), "one node")
    assert "no limit is given" in words(file)


def test_without_matplotlib_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(_name: str) -> None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", missing)
    assert run(["plan", "MODEL", "--nodes", "nodes.toml", "--draw", str(tmp_path / "a.svg")]) == 2
    assert capsys.readouterr().err == (
        "shardline: --draw needs matplotlib, not installed: pip install 'shardline[draw]'\n"
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plan.pdf", "ends in .svg or .png, not 'plan.pdf'"),
        ("plan", "ends in .svg or .png"),
        ("nowhere/plan.svg", "there is no folder"),
        ("folder.svg", "cannot be written"),
    ],
)
def test_a_file_that_cannot_be_drawn_is_refused_in_one_line(
    name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.svg").mkdir()
    assert asked(tmp_path, "--draw", str(tmp_path / name)) == 2
    seen = capsys.readouterr()
    assert said in seen.err
    assert seen.err.count("\n") == 1
    assert seen.out == ""


# --- WHAT IS DRAWN ---


def test_a_cluster_stands_together_and_no_disc_hides_another() -> None:
    problem = make("two-clusters", 24, 40, seed=1)
    seen = sketch(problem, plan(problem, "greedy"))
    assert sorted(map(len, seen.shape.clusters.groups)) == [12, 13]
    cluster = np.array(seen.cluster)
    middles = [seen.places[cluster == at].mean(axis=0) for at in (0, 1)]
    for at, place in enumerate(seen.places):
        own, other = (np.linalg.norm(place - middles[c]) for c in (cluster[at], 1 - cluster[at]))
        assert own < other
    for a, b in combinations(range(len(cluster)), 2):
        apart = float(np.linalg.norm(seen.places[a] - seen.places[b]))
        assert apart > seen.radii[a] + seen.radii[b]


def test_a_link_that_is_not_there_is_a_detour() -> None:
    delay_s = np.full((3, 3), 0.010)
    delay_s[0, 1] = delay_s[1, 0] = np.inf
    nodes = (Node("a", 100), Node("b", 5))
    problem = Problem((Block(0.001, 10, 10),) * 3, nodes, delay_s, np.full((3, 3), 1e6))
    seen = sketch(problem, plan(problem))
    assert seen.shape.rtt.h0[:, 1] == pytest.approx([20.0, 20.0])
    across, near = (
        float(np.linalg.norm(seen.places[0] - seen.places[at])) for at in (1, seen.caller)
    )
    assert across == pytest.approx(2 * near, rel=0.05)


@pytest.mark.parametrize("family", ["homes", "ring"])
def test_stages_take_what_the_plan_says(family: str) -> None:
    problem = make(family, 8, 12, seed=2)
    wide = plan(problem, "greedy")
    sums = [sum(part.ms for part in stage) for stage in sketch(problem, wide).stages]
    assert sums == pytest.approx(wide.stage_ms)
    fast = plan(problem, "greedy", objective="latency")
    *_, back = sketch(problem, fast).stages
    assert back[-1].start_ms + back[-1].ms == pytest.approx(fast.latency_ms)


def test_names_hide_neither_discs_nor_one_another() -> None:
    anchors = [(3.0 + 0.3 * (at % 6), 2.0 + 0.3 * (at // 6), 0.1) for at in range(18)]
    discs = [Box(x, y, radius, radius) for x, y, radius in anchors]
    found = [box for box in label_places(anchors, [(0.3, 0.06)] * 18, discs, NO_LINES) if box]
    assert len(found) > 9
    assert not any(a.covers(b) for a, b in combinations([*discs, *found], 2))


def test_a_hull_is_around_all_points() -> None:
    square = np.array([[0, 0], [2, 0], [2, 2], [0, 2], [1, 1], [1, 0.0]])
    assert {tuple(corner) for corner in hull(square)} == {(0, 0), (2, 0), (2, 2), (0, 2)}
    assert len(hull(np.array([[1.0, 1.0], [2.0, 2.0]]))) == 2
