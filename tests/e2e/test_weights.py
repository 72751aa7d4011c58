"""Nodes that hold fewer bits: a chain of its own, never taken unsaid or while an exact one is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from shardline.core.errors import NotCovered
from shardline.model import kind_named
from tests.parity.chains import prompt
from tests.parity.zoo import make, named
from tests.support.swarms import swarm_here

if TYPE_CHECKING:
    from pathlib import Path


def test_a_chain_holds_the_same_bits_and_an_exact_one_goes_first(tmp_path: Path) -> None:
    make(named("llama"), tmp_path)
    ids, _ = prompt()
    heard: list[Any] = []
    with swarm_here(tmp_path) as nodes:
        nodes.start("small", "0:2", weights=kind_named("int8"))
        nodes.start("exact", "2:4")
        with pytest.raises(NotCovered):
            nodes.swarm.model_now(str(tmp_path))
        nodes.start("small too", "2:4", weights=kind_named("int8"))
        assert nodes.records()["small"].dtype == "float32+int8"
        model = nodes.swarm.model_now(str(tmp_path), tell=heard.append)
        rough = model(ids).logits
        assert heard == ["the nodes hold this model's weights in int8: its text is not exact"]
        with pytest.raises(NotCovered, match="in float32"):
            nodes.swarm.model_now(str(tmp_path), dtype=torch.float32)
        nodes.start("exact too", "0:2")
        exact = nodes.swarm.model_now(str(tmp_path), tell=heard.append)(ids).logits
        assert len(heard) == 1
    assert 0 < float((rough - exact).square().sum() / exact.square().sum()) < 0.25
