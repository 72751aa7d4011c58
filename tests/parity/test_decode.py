"""Every architecture of the zoo over spans equals the whole model, bit for bit, step for step.

Logits are compared at each step, not only tokens: a random model may say the same token whatever
its cache holds. That the comparison is sharp is shown by `test_planted.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from shardline.core.errors import ShardlineError
from shardline.model import cache_length, load_ends
from tests.parity.chains import CPU, LocalChain, difference, generated, padded_batch, prompt

if TYPE_CHECKING:
    from tests.parity.conftest import Case


@pytest.mark.parametrize("inputs", [prompt(), padded_batch()], ids=["one", "padded"])
@torch.no_grad()
def test_prefill_logits_are_bit_equal(
    case: Case, inputs: tuple[torch.Tensor, torch.Tensor]
) -> None:
    expected = case.whole(input_ids=inputs[0], attention_mask=inputs[1]).logits
    logits = case.ends(input_ids=inputs[0], attention_mask=inputs[1]).logits
    assert torch.equal(logits, expected)


@torch.no_grad()
def test_a_forward_without_a_cache_is_bit_equal_and_opens_no_session(case: Case) -> None:
    ids, mask = prompt()
    sessions = len(case.chain.sessions)
    expected = case.whole(input_ids=ids, attention_mask=mask, use_cache=False).logits
    logits = case.ends(input_ids=ids, attention_mask=mask, use_cache=False).logits
    assert torch.equal(logits, expected)
    assert len(case.chain.sessions) <= sessions


@pytest.mark.parametrize("inputs", [prompt(), padded_batch()], ids=["one", "padded"])
def test_sixteen_greedy_steps_have_equal_tokens_and_logits(
    case: Case, inputs: tuple[torch.Tensor, torch.Tensor]
) -> None:
    steps = case.chain.steps
    expected_ids, expected = generated(case.whole, inputs)
    ids, logits = generated(case.ends, inputs)
    assert torch.equal(ids, expected_ids)
    assert difference(logits, expected) == 0.0
    assert case.chain.steps == steps + 16  # one request a step, the prompt's included
    assert torch.bincount(ids[:, 9:].flatten()).count_nonzero() > 3, (
        "the random model is too dull to test with"
    )


def test_three_spans_give_the_same_as_two(case: Case) -> None:
    chain = LocalChain.load(case.plan, 3)
    expected_ids, expected = generated(case.whole, padded_batch(), tokens=6)
    ids, logits = generated(case.ends_over(chain), padded_batch(), tokens=6)
    assert torch.equal(ids, expected_ids)
    assert difference(logits, expected) == 0.0


def test_bfloat16_is_bit_equal_too(case: Case) -> None:
    typeless: Any = AutoModelForCausalLM
    whole = typeless.from_pretrained(case.plan.model_dir, dtype=torch.bfloat16).eval()
    chain = LocalChain.load(case.plan, 2, torch.bfloat16)
    ends = load_ends(case.plan, chain, dtype=torch.bfloat16, device=CPU)
    expected_ids, expected = generated(whole, padded_batch(), tokens=4)
    ids, logits = generated(ends, padded_batch(), tokens=4)
    assert torch.equal(ids, expected_ids)
    assert difference(logits, expected) == 0.0


@torch.no_grad()
def test_a_prompt_in_pieces_and_a_second_turn_follow_the_whole_model(case: Case) -> None:
    """Positions come from the cache's length alone here: nobody passes a mask or positions."""
    recurrent = hasattr(case.plan.config, "state_size")
    name = "cache_params" if recurrent else "past_key_values"
    caches: list[Any] = [None, None]
    ids, _ = prompt(20)
    # A recurrent block of Transformers takes one token at a time once its cache is not empty.
    seen = 0
    for size in (9, 1, 1, *((1,) * 6 if recurrent else (6,)), 1):
        piece = ids[:, seen : seen + size]
        seen += size
        logits: list[torch.Tensor] = []
        for place, model in enumerate((case.whole, case.ends)):
            typeless: Any = model
            given = {} if caches[place] is None else {name: caches[place]}
            output = typeless(input_ids=piece, use_cache=True, **given)
            caches[place] = output[name]
            logits.append(output.logits)
        assert torch.equal(*logits)
        assert cache_length(caches[1]) == seen
        session = case.chain.sessions[caches[1]]
        assert [cache_length(cache) for cache in session] == [seen, seen]


def test_surgery_on_the_cache_is_refused_and_never_followed_wrongly(case: Case) -> None:
    ids, mask = prompt()
    typeless: Any = case.ends
    with pytest.raises(ShardlineError, match="beam search"):
        typeless.generate(ids, attention_mask=mask, max_new_tokens=4, num_beams=3)
