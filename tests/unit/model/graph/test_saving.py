from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from shardline.codec import pack, unpack
from shardline.core.errors import (
    BadInput,
    CorruptWeights,
    NoSuchModel,
    PeerFault,
    StepFailed,
    Unsupported,
)
from shardline.model.graph import (
    StageCrossing,
    capture,
    cut_graph,
    load_signature,
    load_stage,
    place_evenly,
    save_signature,
    save_stage,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shardline.model.graph import Graph

Fields = dict[str, Any]


@pytest.fixture
def folder(graph: Graph, tmp_path: Path) -> Path:
    save_stage(graph, cut_graph(graph, place_evenly(graph, 1))[0], tmp_path)
    save_signature(graph.signature, tmp_path)
    return tmp_path


def change(folder: Path, alter: Callable[[Fields], object]) -> None:
    fields = json.loads((folder / "stage.json").read_text())
    alter(fields)
    (folder / "stage.json").write_text(json.dumps(fields))


def test_a_stage_and_its_signature_come_back(graph: Graph, folder: Path) -> None:
    stage = load_stage(folder)
    assert stage.program == cut_graph(graph, place_evenly(graph, 1))[0]
    assert load_signature(folder) == graph.signature
    assert stage.parameter_bytes == 4 * (30 * 16 + 2 * (16 * 16 + 16))
    assert stage.tensors["one.weight"].requires_grad


def test_a_node_needs_none_of_the_models_code(folder: Path) -> None:
    """In a process that never sees this file; and neither Transformers' models nor tracing run."""
    script = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from shardline.model.graph import load_stage\n"
        "stage = load_stage(Path(sys.argv[1]))\n"
        "given = {'words': torch.zeros(1, 4, dtype=torch.int64), 'image': torch.ones(1, 16),\n"
        "         'words.1': 4, 'words.0': 1, 'image.0': 1}\n"
        "asked = {value.name: given[value.name] for value in stage.program.inputs}\n"
        "print(sorted(tuple(t.shape) for t in stage.run(asked).values()))\n"
    )
    command = [sys.executable, "-c", script, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
    assert done.stdout.strip() == "[(1, 1, 16), (1, 4, 30)]"


@pytest.mark.parametrize(
    "target",
    [
        "aten.add_.Tensor", "aten.from_file.default", "aten.randn.default", "aten.add.out",
        "aten.set_.source_Tensor", "aten.linear.nothing", "aten.__class__.x", "os.system",
        "size.__import__", "size.pow", "aten.empty.memory_format", "item", "",
    ],
)  # fmt: skip
def test_an_op_off_the_list_is_refused(folder: Path, target: str) -> None:
    def alter(fields: Fields) -> None:
        fields["program"]["ops"][0]["target"] = target

    change(folder, alter)
    with pytest.raises((Unsupported, CorruptWeights)):
        load_stage(folder)


FIRST = ("program", "ops", 0, "args")


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        (("version",), 2, "format 2"),
        (("more",), 1, "unknown field"),
        (FIRST, [{"is": "value", "name": "late"}], "early"),
        (FIRST, [1] * 65, "length"),
        (FIRST, [[[1]]], "Expected"),
        (FIRST, [2**70], "<="),
        (FIRST, [{"is": "code", "name": "x"}], "Invalid value"),
        (FIRST, [{"is": "dtype", "name": "load"}], "no dtype"),
        (FIRST, [{"is": "format", "name": "x"}], "format 'x'"),
        (FIRST, [{"is": "held", "name": "x"}], "x is missing"),
        (("program", "ops", 1, "name"), "embedding", "made twice"),
        (("program", "outputs", 0, "name"), "x", "never made"),
        (("program", "inputs", 0, "shape"), [-1], ">="),
    ],
)
def test_a_program_that_cannot_be_is_refused_before_it_runs(
    folder: Path, place: tuple[str | int, ...], value: object, why: str
) -> None:
    def alter(fields: Fields) -> None:
        part: Any = fields
        for key in place[:-1]:
            part = part[key]
        part[place[-1]] = value

    change(folder, alter)
    with pytest.raises(CorruptWeights, match=why) as caught:
        load_stage(folder)
    assert "\n" not in str(caught.value)


def test_files_that_are_missing_or_damaged_are_named(folder: Path) -> None:
    with pytest.raises(NoSuchModel, match=r"stage\.json"):
        load_stage(folder / "nowhere")
    weights = folder / "stage.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(CorruptWeights, match="the last 8 bytes are missing"):
        load_stage(folder)
    (folder / "stage.json").write_text("[" * 100_000)
    with pytest.raises(CorruptWeights, match=r"stage\.json"):
        load_stage(folder)
    (folder / "signature.json").write_bytes(b"\xff")
    with pytest.raises(CorruptWeights, match=r"signature\.json"):
        load_signature(folder)


def test_a_signature_that_cannot_be_is_refused(folder: Path) -> None:
    file = folder / "signature.json"
    whole = file.read_text()
    wrong = (("Equality", "exec"), ('"image.0"', '"image.7"'), ('"name":"words"', '"name":"x"'))
    for old, new in wrong:
        assert old in whole
        file.write_text(whole.replace(old, new, 1))
        with pytest.raises(CorruptWeights):
            load_signature(folder)


def test_numbers_do_not_grow_without_end(folder: Path) -> None:
    def alter(fields: Fields) -> None:
        value = {"is": "value", "name": "words.1"}
        ops = [{"name": "n0", "target": "size.mul", "args": [value, 2**40]}]
        for at in range(60):
            last = {"is": "value", "name": f"n{at}"}
            ops.append({"name": f"n{at + 1}", "target": "size.mul", "args": [last, last]})
        fields["program"] = {
            "ops": ops,
            "inputs": [{"name": "words.1", "dtype": "number"}],
            "outputs": [{"name": "n60", "dtype": "number"}],
        }

    change(folder, alter)
    with pytest.raises(StepFailed, match=r"n1 \(size\.mul\)"):
        load_stage(folder).run({"words.1": 4})


@pytest.mark.parametrize(
    "image", [None, 3, torch.ones(1, 15), torch.ones(1, 16, 1), torch.ones(1, 16).double()]
)
def test_an_input_that_does_not_fit_is_a_peers_fault(folder: Path, image: object) -> None:
    given = {"words": torch.zeros(1, 4, dtype=torch.int64), "words.1": 4, "image": image}
    with pytest.raises(PeerFault, match="image"):
        load_stage(folder).run(given)


def test_values_keep_their_strides_across_a_link(tmp_path: Path) -> None:
    """Here they lie otherwise than in the example that the module was captured with."""
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    image = torch.ones(2, 3, 5, 5)
    graph = capture(module, (image,))
    first, last = cut_graph(graph, place_evenly(graph, 2))
    save_stage(graph, first, tmp_path / "first")
    save_stage(graph, last, tmp_path / "last")
    lying = image.to(memory_format=torch.channels_last)
    sent = StageCrossing(1, load_stage(tmp_path / "first").run({"input": lying}))
    came: Any = unpack(pack(sent.to_tree()))
    (done,) = load_stage(tmp_path / "last").run(StageCrossing.from_tree(came).values).values()
    assert done.is_contiguous(memory_format=torch.channels_last)


def test_an_op_that_fails_names_itself(folder: Path) -> None:
    words = torch.full((1, 4), 99)
    with pytest.raises(StepFailed, match=r"embedding \(aten\.embedding\.default\): index out of"):
        load_stage(folder).run({"words": words, "words.1": 4, "image": torch.ones(1, 16)})


def test_a_module_without_weights_cannot_be_saved(tmp_path: Path) -> None:
    with torch.device("meta"):
        module, example = nn.Linear(4, 4), torch.ones(2, 4)
    graph = capture(module, (example,))
    with pytest.raises(BadInput, match="Linear has no weights"):
        save_stage(graph, cut_graph(graph, place_evenly(graph, 1))[0], tmp_path)
