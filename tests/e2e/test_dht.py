"""A swarm whose directory is a DHT, by its invite: real processes on loopback."""

from __future__ import annotations

import json
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from shardline.cli.local import local_swarm
from shardline.core.spans import Span
from shardline.model import load_tokenizer
from shardline.swarm import Invite

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.e2e.conftest import Ended

pytestmark = [
    pytest.mark.filterwarnings("ignore:path is deprecated:DeprecationWarning"),  # hivemind's
    pytest.mark.skipif(
        find_spec("hivemind") is None,
        reason="hivemind is not installed: pip install 'shardline[dht]'",
    ),
]
PROMPT = "One morning"
TOKENS = 24
DEADLINE_S = 60.0


def _daemon(node: int | None) -> psutil.Process | None:
    """Of this node, if it runs now."""
    return next((child for child in psutil.Process(node).children() if _lives(child)), None)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.name() == "p2pd" and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _other_daemon(node: int | None, than: psutil.Process) -> psutil.Process:
    deadline_s = time.monotonic() + DEADLINE_S
    while (found := _daemon(node)) in (None, than):
        assert time.monotonic() < deadline_s, "the daemon was not started again"
        time.sleep(0.05)
    assert found
    return found


@pytest.mark.timeout(280)
def test_the_tokens_are_the_same_and_a_killed_daemon_costs_nothing(
    tiny: Path, shardline: Callable[..., Ended]
) -> None:
    ids = cast("Any", load_tokenizer(tiny))(PROMPT, return_tensors="pt")["input_ids"]
    whole = cast("Any", AutoModelForCausalLM).from_pretrained(tiny, dtype=torch.float32)
    settings: dict[str, Any] = {"max_new_tokens": TOKENS, "do_sample": False}
    golden = whole.generate(ids, **settings)[0].tolist()

    with local_swarm(tiny, [Span(0, 2), Span(2, 4)], invite=Invite.new(directory="dht")) as local:
        asked = ["--join", local.invite, "--prompt", PROMPT, "--max-new-tokens", TOKENS, "--json"]
        done = shardline("generate", tiny, *asked)
        assert done.code == 0, done.err
        assert [*ids[0].tolist(), *json.loads(done.out)["token_ids"]] == golden

        ada = local.processes["ada"].pid
        first = _daemon(ada)
        assert first
        first.kill()
        model = local.swarm.model_now(str(tiny))
        assert model.generate(ids, **settings)[0].tolist() == golden
        _other_daemon(ada, first)
        status = json.loads(shardline("status", "--join", local.invite, "--json").out)
        assert {(row["name"], row["path"]) for row in status["nodes"]} == {
            ("ada", "direct"),
            ("ben", "direct"),
        }
