"""Nodes that keep their cache in 8 bits: a chain of its own, never taken unsaid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from shardline.core.errors import NotCovered
from shardline.model import CACHES, PAGE_TOKENS
from tests.parity.chains import generated, prompt
from tests.parity.zoo import make, named
from tests.support.swarms import swarm_here

if TYPE_CHECKING:
    from pathlib import Path

INT8 = CACHES["int8"]


def test_a_chain_keeps_the_same_bits_and_an_exact_one_goes_first(tmp_path: Path) -> None:
    make(named("llama"), tmp_path)
    inputs = prompt()
    heard: list[Any] = []
    with swarm_here(tmp_path) as nodes:
        nodes.start("coarse", "0:2", memory_bytes=2**20, cache=INT8)
        nodes.start("exact", "2:4", memory_bytes=2**20)
        with pytest.raises(NotCovered):
            nodes.swarm.model_now(str(tmp_path))
        nodes.start("coarse too", "2:4", cache=INT8)
        records = nodes.records()
        assert records["coarse"].dtype == "float32+cache8"
        tokens = {name: records[name].cache_tokens_total for name in ("coarse", "exact")}
        assert tokens["coarse"] > 3.5 * tokens["exact"]  # the blocks are equally large
        model: Any = nodes.swarm.model_now(str(tmp_path), tell=heard.append)
        rough = generated(model, inputs, tokens=1)[1][0]
        assert heard == ["the nodes hold this model's cache in int8: its text is not exact"]
        with pytest.raises(NotCovered, match="in float32"):
            nodes.swarm.model_now(str(tmp_path), dtype=torch.float32)
        nodes.start("exact too", "0:2")
        finer: Any = nodes.swarm.model_now(str(tmp_path), tell=heard.append)
        exact = generated(finer, inputs, tokens=1)[1][0]
        assert len(heard) == 1
    assert 0 < float((rough - exact).square().sum() / exact.square().sum()) < 0.25


def test_one_node_in_8_bits_writes_the_same_behind_a_shared_prefix(tmp_path: Path) -> None:
    make(named("llama"), tmp_path)
    inputs = prompt(PAGE_TOKENS + 9)
    with swarm_here(tmp_path) as nodes:
        nodes.start("coarse", "0:4", cache=INT8)
        model: Any = nodes.swarm.model_now(str(tmp_path), share_prefixes=True)
        texts = [generated(model, inputs, tokens=6)[0] for _ in range(2)]
        assert model.last is not None
        assert model.last.shared_tokens == PAGE_TOKENS
    assert torch.equal(*texts)


def test_a_model_without_such_layers_stays_exact(tmp_path: Path) -> None:
    make(named("mistral"), tmp_path)
    with swarm_here(tmp_path) as nodes:
        nodes.start("asked for 8 bits", "0:4", cache=INT8)
        assert nodes.records()["asked for 8 bits"].dtype == "float32"
