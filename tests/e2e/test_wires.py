"""Hidden states in 8 bits over real nodes: agreed on link by link, and the same after a death."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from shardline.cli.demo import shipped_model
from shardline.cli.local import local_swarm
from shardline.cli.main import run
from shardline.client import Mended, Terms
from shardline.core.spans import Span
from tests.parity.zoo import make, named
from tests.support.scenes import PROMPT, alone, greedy, parts
from tests.support.swarms import nodes_here

if TYPE_CHECKING:
    from pathlib import Path

    from shardline.client import Swarm

COARSE = Terms("int8")
TOKENS = 40


@pytest.mark.parametrize("standby", [0, 1])
def test_a_death_in_mid_sentence_changes_no_token_of_a_text_in_8_bits(standby: int) -> None:
    """Whoever takes over is sent the bytes that the dead node was sent."""
    with local_swarm(shipped_model(), parts(2) * 2) as local:
        told: list[Mended | str] = []
        model = local.swarm.model_now(
            str(shipped_model()), standby=standby, terms=COARSE, tell=told.append
        )
        unbroken = list(model.stream(PROMPT, **greedy(TOKENS)))
        assert model.last is not None
        assert model.last.wires == ("int8", "int8", "int8")
        seen: list[int] = []
        killed = 0
        for token in model.stream(PROMPT, **greedy(TOKENS)):
            seen.append(token)
            if not killed and len(seen) > 9 and len(model.standbys) == 2 * standby:
                names = {record.node: record.name for record in local.swarm.nodes_now()}
                local.kill(names[model.chain[1].node])
                killed = len(seen)
        assert killed
        assert seen == unbroken
        deaths = [news for news in told if isinstance(news, Mended) and "became" not in str(news)]
        assert [news.standby for news in deaths] == [bool(standby)]
        exact = local.swarm.model_now(str(shipped_model()))
        assert list(exact.stream(PROMPT, **greedy(TOKENS))) == alone(greedy(TOKENS))
        assert exact.last is not None
        assert (exact.last.wires, exact.last.saved_bytes) == (("raw",) * 3, 0)


def test_each_link_says_what_it_carried_and_a_node_may_insist_on_raw(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARDLINE_HOME", str(tmp_path))
    *spans, last = parts(3)
    with local_swarm(shipped_model(), spans) as local:
        local.start("exact", last, options=["--wire", "raw"])
        local.wait_until_ready()

        def written(*options: str) -> dict[str, Any]:
            asked = ["--prompt", "One morning, Anna", "--max-new-tokens", "20", "--json"]
            join = ["--join", local.invite]
            assert run(["generate", str(shipped_model()), *join, *asked, *options]) == 0
            return json.loads(capsys.readouterr().out)

        raw, coarse = written(), written("--wire", "int8", "--wire-block", "64")
    assert (raw["wire"], raw["saved_bytes"]) == (["raw"] * 4, 0)
    assert coarse["wire"] == ["int8", "int8", "int8", "raw"]
    assert len(coarse["token_ids"]) == len(raw["token_ids"])
    assert coarse["moved_bytes"] + coarse["saved_bytes"] == pytest.approx(
        raw["moved_bytes"], rel=0.01
    )


@pytest.mark.parametrize(("dtype", "share"), [("float32", 0.30), ("bfloat16", 0.55)])
def test_at_a_large_models_width_8_bits_are_about_a_quarter_of_float32(
    tmp_path: Path, dtype: str, share: float
) -> None:
    """All that crosses is counted: scales, side inputs and structure too."""
    wide = replace(named("llama"), fields={"hidden_size": 4_096, "num_hidden_layers": 2})
    make(wide, tmp_path)

    def moved(swarm: Swarm, terms: Terms) -> int:
        model = swarm.model_now(str(tmp_path), terms=terms)
        model.generate(torch.tensor([[5, 9, 2, 7] * 8]), **greedy(8))
        assert model.last is not None
        assert set(model.last.wires) == {terms.wire}
        return model.last.moved_bytes

    with nodes_here(tmp_path, [Span(0, 1), Span(1, 2)], dtype=dtype) as swarm:
        assert moved(swarm, COARSE) <= share * moved(swarm, Terms())
