from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from transformers.utils import logging

from shardline.core.errors import BlocksOutOfRange, CorruptWeights
from shardline.core.spans import Span
from shardline.model import ChainPlan, LoadedSpan, load_ends, load_span, trace
from shardline.model.loading import block_of
from tests.parity.chains import CPU, LocalChain
from tests.parity.zoo import ZOO, Tiny, make, named, read_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


def load(plan: ChainPlan, start: int, stop: int) -> LoadedSpan:
    return load_span(plan, Span(start, stop), dtype=torch.float32, device=CPU)


@pytest.mark.parametrize("tiny", ZOO, ids=lambda tiny: tiny.name)
def test_a_span_and_the_ends_hold_their_own_weights_and_no_others(
    tiny: Tiny, tmp_path: Path
) -> None:
    whole = make(tiny, tmp_path)
    plan = trace(tmp_path)
    span = load(plan, 1, 3)
    assert span.memory_bytes == sum(plan.block_bytes(torch.float32)[1:3])
    blocks = cast("nn.ModuleList", whole.get_submodule(plan.chains[0].path))
    for index, block in span.blocks.items():
        expected = dict(blocks[index].named_parameters())
        for name, parameter in block.named_parameters():
            assert torch.equal(parameter, expected[name]), name
    ends = load_ends(plan, LocalChain([]), dtype=torch.float32, device=CPU)
    assert sum(p.nbytes for p in ends.parameters()) == 4 * plan.ends_elements
    assert not any(name.startswith(plan.chains[0].path) for name, _ in ends.named_parameters())
    assert not any(p.is_meta for p in [*span.parameters(), *ends.parameters()])


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sharded")
    make(named("mixtral"), directory, shard_size="200KB")
    return directory


def test_only_the_files_that_hold_the_span_are_needed(sharded: Path, tmp_path: Path) -> None:
    index = json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {file for name, file in index.items() if name.startswith("model.layers.2.")}
    assert len(needed) < len(set(index.values())), "the checkpoint has to be in several files"
    for file in [*needed, "config.json", "model.safetensors.index.json"]:
        (tmp_path / file).hardlink_to(sharded / file)
    span = load(trace(tmp_path), 2, 3)
    assert span.memory_bytes == span.plan.block_bytes(torch.float32)[2]
    with pytest.raises(CorruptWeights, match="the file is missing"):
        load(span.plan, 1, 2)


def test_a_file_without_the_tensor_that_the_index_says_is_named(
    sharded: Path, tmp_path: Path
) -> None:
    for file in sharded.iterdir():
        (tmp_path / file.name).hardlink_to(file)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    name = "model.layers.0.self_attn.q_proj.weight"
    other = next(f for f in index["weight_map"].values() if f != index["weight_map"][name])
    index["weight_map"][name] = other
    path.unlink()
    path.write_text(json.dumps(index))
    with pytest.raises(CorruptWeights, match=name):
        load(trace(tmp_path), 0, 1)


def test_weights_are_cast_to_the_dtype_asked_for(plan: ChainPlan) -> None:
    span = load_span(plan, Span(0, 2), dtype=torch.bfloat16, device=CPU)
    assert span.dtype == torch.bfloat16
    assert span.memory_bytes == sum(plan.block_bytes(torch.bfloat16)[:2])


def test_weights_of_the_same_dtype_stay_memory_mapped(plan: ChainPlan, llama: Path) -> None:
    span = load(plan, 0, 4)
    span.warm()
    name = str(llama / "model.safetensors")
    with open("/proc/self/maps") as maps:  # noqa: PTH123
        mapped = [line.split()[0].split("-") for line in maps if line.rstrip().endswith(name)]
    ranges = [(int(start, 16), int(stop, 16)) for start, stop in mapped]
    for parameter in span.parameters():
        assert any(start <= parameter.data_ptr() < stop for start, stop in ranges)


def test_a_span_beyond_the_model_is_refused(plan: ChainPlan) -> None:
    with pytest.raises(BlocksOutOfRange):
        load(plan, 2, 9)


def test_loading_says_nothing(plan: ChainPlan, capfd: pytest.CaptureFixture[str]) -> None:
    level = logging.get_verbosity()
    load(plan, 0, 2)
    load_ends(plan, LocalChain([]), dtype=torch.float32, device=CPU)
    assert capfd.readouterr() == ("", "")
    assert logging.get_verbosity() == level
    assert logging.is_progress_bar_enabled()


@pytest.mark.parametrize(
    ("path", "names", "expected"),
    [
        ("transformer.h", ["h.0.attn", "h.11.attn", "wte.weight"], [0, 11, None]),
        ("model.layers", ["model.layers.3.x", "layers.norm", "lm_head.weight"], [3, None, None]),
        (
            "model.language_model.layers",
            [
                "language_model.model.layers.7.x.weight",
                "vision_tower.encoder.layers.2.x.weight",
                "language_model.model.layers.7.experts.layers.1.x",
            ],
            [7, None, 7],
        ),
        ("model.layers", ["embed.weight"], [None]),
    ],
)
def test_a_tensors_block_is_read_from_its_name(
    path: str, names: list[str], expected: list[int | None]
) -> None:
    assert list(map(block_of(path, names), names)) == expected


def test_a_checkpoint_without_the_base_models_prefix_is_read(tmp_path: Path) -> None:
    """As GPT-2's own on the hub, whose names begin with `h.0.` and not `transformer.h.0.`."""
    whole: Any = make(named("gpt2"), tmp_path / "whole").base_model
    whole.save_pretrained(tmp_path / "base")
    names = read_tensors(tmp_path / "base" / "model.safetensors")
    assert "h.0.attn.c_attn.weight" in names
    config = (tmp_path / "whole" / "config.json").read_text()
    (tmp_path / "base" / "config.json").write_text(config)
    plan = trace(tmp_path / "base")
    span = load(plan, 1, 2)
    assert torch.equal(next(iter(span.blocks[1].parameters())), names["h.1.ln_1.weight"])
