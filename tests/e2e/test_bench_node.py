"""`shardline bench node`: a real node on loopback, every key, and nothing that is not positive."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.e2e.conftest import Ended

KEYS = {
    "batches",
    "bandwidth_share",
    "time_to_first_token_s",
    "rss_bytes",
    "hf_tokens_per_s",
    "device",
    "prefill_share",
    "python_ms_per_layer",
    "arrivals",
}


@pytest.mark.timeout(300)
def test_a_quick_look_at_the_shipped_model_has_every_figure(
    shardline: Callable[..., Ended], tmp_path: Path
) -> None:
    options = ["--shape", "shipped", "--quick", "--weights", "fp32", "--threads", "1"]
    prompts = ["--prompts", "32,1024", "--out", tmp_path / "kept.json"]
    ended = shardline("bench", "node", *options, *prompts, "--json")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert json.loads((tmp_path / "kept.json").read_text()) == found
    assert found.keys() >= KEYS
    assert [row["batch"] for row in found["batches"]] == [1, 2]
    for row in found["batches"]:
        assert row["tokens_per_s"] > 0
        assert row["hf_tokens_per_s"] > 0
        assert row["tokens_equal"] == 1.0  # in float32, as sessions of their own too
    for key in ("bandwidth_share", "rss_bytes", "hf_tokens_per_s", "python_ms_per_layer"):
        assert found[key] > 0
    arrivals = found["arrivals"]
    assert (arrivals["sessions"], arrivals["tokens"]) == (2, 6)
    for key in ("together_tokens_per_s", "random_tokens_per_s", "once_tokens_per_s"):
        assert arrivals[key] > 0
    rates = arrivals["random_tokens_per_s"], arrivals["together_tokens_per_s"]
    assert arrivals["share"] == pytest.approx(rates[0] / rates[1])
    assert found["prefill_share"].keys() == {"32"}
    assert found["prefill_share"]["32"] > 0
    assert found["time_to_first_token_s"]["32"] > 0
    assert found["time_to_first_token_s"]["1024"] is None
    assert "context is 512 tokens" in found["skipped"]["1024"]
