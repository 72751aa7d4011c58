"""Every architecture over two nodes, behind real sealed channels: the tokens of one process."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import AutoModelForCausalLM

from shardline.core.spans import Span
from tests.parity.zoo import ZOO, Tiny, make
from tests.support.swarms import nodes_here

SPANS = [Span(0, 1), Span(1, 4)]
UNEQUAL = torch.tensor([[0, 0, 0, 5, 9, 2, 7], [3, 8, 4, 4, 6, 1, 11]])


@pytest.mark.parametrize("tiny", ZOO, ids=lambda tiny: tiny.name)
def test_two_nodes_write_what_one_process_writes(tiny: Tiny, tmp_path: Path) -> None:
    make(tiny, tmp_path)
    whole = cast("Any", AutoModelForCausalLM).from_pretrained(tmp_path, dtype=torch.float32)
    mask = (torch.arange(7) >= torch.tensor([[3], [0]])).long()
    greedy = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False}
    with nodes_here(tmp_path, SPANS) as swarm:
        model = swarm.model_now(str(tmp_path))
        assert torch.equal(model(UNEQUAL[1:]).logits, whole(UNEQUAL[1:]).logits)
        assert torch.equal(model.generate(UNEQUAL, **greedy), whole.generate(UNEQUAL, **greedy))
