"""A cut graph in a folder: what its page says is checked before it is believed."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardline.core.errors import BadInput, BlocksOutOfRange, CorruptWeights, NoSuchModel, PeerFault
from shardline.core.spans import Span
from shardline.model import (
    GraphPlan,
    Returned,
    capture,
    is_graph,
    load_stages,
    open_graph,
    place_evenly,
    save_graph,
)
from tests.support.graphs import STAGES, captured, towers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CPU = torch.device("cpu")
Fields = dict[str, Any]


@pytest.fixture
def folder(plan: GraphPlan, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(plan.folder, tmp_path / "copy")


def change(folder: Path, alter: Callable[[Fields], object]) -> None:
    fields = json.loads((folder / "graph.json").read_text())
    alter(fields)
    (folder / "graph.json").write_text(json.dumps(fields))


def test_what_was_saved_is_found_again_wherever_it_lies(plan: GraphPlan, folder: Path) -> None:
    assert is_graph(folder)
    assert not is_graph(folder.parent)
    again = open_graph(folder)
    assert (again.fingerprint, again.name) == (plan.fingerprint, "Towers")
    assert again.page == plan.page
    assert again.blocks == STAGES


def test_other_weights_and_other_cuts_are_another_model(plan: GraphPlan, tmp_path: Path) -> None:
    graph = captured(towers(1))
    cuts = [save_graph(graph, place_evenly(graph, n), tmp_path / f"{n}") for n in (2, STAGES)]
    prints = {one.fingerprint for one in (plan, *cuts)}
    assert len(prints) == 3
    again = save_graph(graph, place_evenly(graph, 2), tmp_path / "again")
    assert again.fingerprint == cuts[0].fingerprint


def test_a_node_needs_the_page_and_its_own_stages_only(folder: Path) -> None:
    for at in (0, 2):
        shutil.rmtree(folder / f"stage-{at}")
    (folder / "signature.json").unlink()
    plan = open_graph(folder)
    load_stages(plan, Span(1, 2), CPU)
    with pytest.raises(CorruptWeights, match="stage-2"):
        load_stages(plan, Span(1, 3), CPU)
    with pytest.raises(BlocksOutOfRange, match="0:3"):
        load_stages(plan, Span(2, 4), CPU)


def test_what_is_needed_is_what_later_stages_and_the_caller_read(plan: GraphPlan) -> None:
    assert {"words", "image", "words.1"} >= set(plan.needs(0))
    for at, note in enumerate(plan.stages):
        there = set(plan.needs(at))
        assert set(note.inputs) <= there
        assert set(plan.needs(at + 1)) <= there | set(note.outputs)
    assert set(plan.needs(STAGES)) == set(plan.page.results)


@pytest.mark.parametrize(
    "file", ["signature.json", "stage-1/stage.json", "stage-1/stage.safetensors"]
)
def test_a_file_that_was_changed_is_named(folder: Path, file: str) -> None:
    data = bytearray((folder / file).read_bytes())
    data[-2] ^= 1
    (folder / file).write_bytes(data)
    plan = open_graph(folder)
    with pytest.raises(CorruptWeights, match=file):
        load_stages(plan, Span(1, 2), CPU) if "stage" in file else plan.signature()


def unmade(fields: Fields) -> None:
    fields["stages"][0]["inputs"].append(fields["stages"][2]["outputs"][0])


def nameless(fields: Fields) -> None:
    fields["stages"][1]["outputs"].append("nobody knows it")


def twice(fields: Fields) -> None:
    fields["stages"][1]["outputs"].append(fields["stages"][0]["outputs"][0])


UNTRUE: list[Callable[[Fields], object]] = [
    unmade,
    nameless,
    twice,
    lambda fields: fields["results"].append("words"),
    lambda fields: fields["stages"].clear(),
    lambda fields: fields["stages"][0].pop("tensors"),
    lambda fields: fields.update(version=2),
    lambda fields: fields.update(name="../x"),
    lambda fields: fields.update(more=1),
    lambda fields: fields["stages"][0].update(parameter_bytes=-1),
    lambda fields: fields["samples"]["image"].update(shape=[2**17, 2**16]),
    lambda fields: fields["samples"]["image"].update(shape=[0, 2**40, 2**40]),
]


@pytest.mark.parametrize("alter", UNTRUE)
def test_a_page_that_cannot_be_true_is_refused(
    folder: Path, alter: Callable[[Fields], object]
) -> None:
    change(folder, alter)
    with pytest.raises(CorruptWeights, match=r"graph\.json"):
        open_graph(folder)


@given(st.data())
def test_a_damaged_page_is_one_error_of_ours(plan: GraphPlan, data: st.DataObject) -> None:
    page = plan.folder / "graph.json"
    whole = page.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    try:
        page.write_bytes(whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + 1 :])
        open_graph(plan.folder)
    except CorruptWeights:
        pass
    finally:
        page.write_bytes(whole)


def test_no_graph_is_no_such_model(tmp_path: Path) -> None:
    with pytest.raises(NoSuchModel, match=r"graph\.json"):
        open_graph(tmp_path)


def test_a_module_without_weights_leaves_no_graph(tmp_path: Path) -> None:
    with torch.device("meta"):
        module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
        graph = capture(module, (torch.ones(2, 4),))
    with pytest.raises(BadInput, match="meta"):
        save_graph(graph, place_evenly(graph, 2), tmp_path)
    assert not is_graph(tmp_path)


def test_results_are_the_graphs_or_a_peers_fault(plan: GraphPlan) -> None:
    good = plan.example(plan.needs(STAGES), CPU)
    assert plan.results(Returned(good)).keys() == good.keys()
    name = next(iter(good))
    for bad in (None, {}, good | {"more": 1}, good | {name: 1}, good | {name: good[name].double()}):
        with pytest.raises(PeerFault):
            plan.results(Returned(bad))
