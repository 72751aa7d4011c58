"""A swarm whose activations go over iroh, by its invite: real processes on loopback."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from transformers import AutoModelForCausalLM

from shardline.cli.local import local_swarm
from shardline.core.spans import Span
from shardline.swarm import Invite

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.e2e.conftest import Ended

TOKENS = 24
PROMPT = torch.tensor([[5, 9, 2, 7]])
GREEDY: dict[str, Any] = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False}


@pytest.mark.timeout(240)
def test_the_tokens_are_the_same_and_a_killed_node_is_replaced(
    tiny: Path, shardline_process: Callable[..., Ended]
) -> None:
    whole = cast("Any", AutoModelForCausalLM).from_pretrained(tiny, dtype=torch.float32)
    golden = whole.generate(PROMPT, **GREEDY)[0].tolist()
    spans = [Span(0, 2), Span(2, 4), Span(2, 4)]
    with local_swarm(tiny, spans, invite=Invite.new(nat="none")) as local:
        assert Invite.parse(local.invite).nat == "none"
        model = local.swarm.model_now(str(tiny))
        assert model.generate(PROMPT, **GREEDY)[0].tolist() == golden
        shown = json.loads(shardline_process("status", "--join", local.invite, "--json").out)[
            "nodes"
        ]
        assert {node["path"] for node in shown} == {"direct"}
        records = {record.name: record for record in local.swarm.nodes_now()}
        assert all(record.addresses[0].startswith("iroh/") for record in records.values())
        used = {hop.node for hop in model.chain}
        name = next(name for name, found in records.items() if found.start and found.node in used)
        local.kill(name)
        assert model.generate(PROMPT, **GREEDY)[0].tolist() == golden
