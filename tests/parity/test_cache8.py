"""Keys and values in 8 bits: near the exact logits in every architecture, and not exact."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, cast

import torch

from shardline.cli.demo import shipped_model
from shardline.core.spans import Span
from shardline.model import CACHES, LoadedSpan, load_ends, load_span, load_tokenizer, trace
from tests.parity.chains import CPU, LocalChain, prompt

if TYPE_CHECKING:
    from tests.parity.conftest import Case

INT8 = CACHES["int8"]


@torch.no_grad()
def test_logits_are_near_the_exact_ones_and_equal_where_no_block_keeps_every_token(
    case: Case,
) -> None:
    spans = [LoadedSpan(one.plan, one.span, one.blocks, INT8) for one in case.chain.spans]
    coarse = case.ends_over(LocalChain(spans))
    name = "cache_params" if hasattr(case.plan.config, "state_size") else "past_key_values"
    caches: list[Any] = [None, None]
    ids, _ = prompt(20)
    errors: list[float] = []
    seen = 0
    for size in (12, 1, 1, 1):
        piece, seen = ids[:, seen : seen + size], seen + size
        logits: list[torch.Tensor] = []
        for place, model in enumerate((case.whole, coarse)):
            typeless: Any = model
            given = {} if caches[place] is None else {name: caches[place]}
            output = typeless(input_ids=piece, use_cache=True, **given)
            caches[place] = output[name]
            logits.append(output.logits[:, -1])
        exact, found = logits
        errors.append(float((found - exact).square().sum() / exact.square().sum()))
    if any(case.plan.cache_vectors_per_token):
        assert 0 < statistics.median(errors) < 0.02
        assert max(errors) < 0.25  # a router may choose another expert for a token
    else:
        assert max(errors) == 0.0


@torch.no_grad()
def test_the_shipped_model_means_the_same_tokens() -> None:
    """Nearly everywhere; of 20 texts `benchmarks.cache` tells."""
    plan = trace(shipped_model())
    exact = load_span(plan, Span(0, plan.blocks), dtype=torch.float32, device=CPU)
    coarse = LoadedSpan(plan, exact.span, exact.blocks, INT8)
    one, other = (
        cast("Any", load_ends(plan, LocalChain([span]), dtype=torch.float32, device=CPU))
        for span in (exact, coarse)
    )
    start = torch.tensor([load_tokenizer(shipped_model())("Once the fox")["input_ids"]])
    text = one.generate(start, max_new_tokens=40, do_sample=False)
    wanted, found = (ends(input_ids=text, use_cache=True).logits for ends in (one, other))
    assert not torch.equal(found, wanted)
    assert float((found.argmax(-1) == wanted.argmax(-1)).float().mean()) > 0.95
