"""Prompts that begin alike over real nodes: what was computed once is not computed again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from transformers import AutoModelForCausalLM

from shardline.cli.demo import shipped_model
from shardline.cli.local import local_swarm
from shardline.client import Terms
from shardline.model import PAGE_TOKENS
from tests.support.scenes import parts
from tests.support.swarms import nodes_here

if TYPE_CHECKING:
    from collections.abc import Generator

    from shardline.client import Generation, Swarm, SwarmModel

PREFIX_PAGES = 6
NEW = 8


@pytest.fixture(scope="module")
def swarm() -> Generator[Swarm]:
    with nodes_here(shipped_model(), parts(2)) as swarm:
        yield swarm


@pytest.fixture(scope="module")
def whole() -> Any:
    return cast("Any", AutoModelForCausalLM).from_pretrained(shipped_model(), dtype=torch.float32)


def prompts(count: int, seed: int) -> list[torch.Tensor]:
    """Prompts that share their first pages and no more."""
    made = torch.Generator().manual_seed(seed)
    shared = torch.randint(3, 500, (1, PREFIX_PAGES * PAGE_TOKENS), generator=made)
    own = (torch.randint(3, 500, (1, 5 + 30 * n), generator=made) for n in range(count))
    return [torch.cat([shared, rest], dim=1) for rest in own]


def greedy(model: Any, prompt: torch.Tensor, **options: Any) -> list[int]:
    mask = torch.ones_like(prompt)
    out = model.generate(
        prompt,
        attention_mask=mask,
        max_new_tokens=NEW,
        do_sample=False,
        eos_token_id=None,
        **options,
    )
    return cast("list[int]", out[0, prompt.shape[1] :].tolist())


def last(model: SwarmModel) -> Generation:
    assert model.last is not None
    return model.last


def test_sessions_that_begin_alike_send_only_the_rest_and_write_what_the_model_writes(
    swarm: Swarm, whole: Any
) -> None:
    model = swarm.model_now(str(shipped_model()), share_prefixes=True)
    wanted = prompts(4, seed=1)
    texts = [greedy(model, wanted[0])]
    assert last(model).shared_tokens == 0
    first_bytes = last(model).steps[0].moved_bytes
    for prompt in wanted[1:]:
        texts.append(greedy(model, prompt))
        assert last(model).shared_tokens == PREFIX_PAGES * PAGE_TOKENS
        share = (prompt.shape[1] - PREFIX_PAGES * PAGE_TOKENS) / wanted[0].shape[1]
        assert last(model).steps[0].moved_bytes < (share + 0.1) * first_bytes
    assert texts == [greedy(whole, prompt) for prompt in wanted]


def test_nothing_is_shared_unless_it_was_asked_for_on_the_same_terms(swarm: Swarm) -> None:
    one, other = prompts(2, seed=2)
    shares = swarm.model_now(str(shipped_model()), share_prefixes=True)
    greedy(shares, one)
    silent = swarm.model_now(str(shipped_model()))
    coarse = swarm.model_now(str(shipped_model()), share_prefixes=True, terms=Terms("int8"))
    for model in (silent, coarse):
        greedy(model, other)
        assert last(model).shared_tokens == 0
    greedy(shares, other)
    assert last(shares).shared_tokens == PREFIX_PAGES * PAGE_TOKENS


def test_padded_and_many_sequences_are_computed_whole(swarm: Swarm, whole: Any) -> None:
    model = swarm.model_now(str(shipped_model()), share_prefixes=True)
    one, _ = prompts(2, seed=3)
    greedy(model, one)
    twice = one.expand(2, -1)
    options: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None}
    mask = torch.ones_like(twice)
    both = model.generate(twice, attention_mask=mask, **options)
    assert torch.equal(both, whole.generate(twice, attention_mask=mask, **options))
    assert last(model).shared_tokens == 0
    mask = torch.ones_like(one)
    mask[0, :3] = 0
    padded = model.generate(one, attention_mask=mask, **options)
    assert torch.equal(padded, whole.generate(one, attention_mask=mask, **options))
    assert last(model).shared_tokens == 0


@pytest.mark.parametrize("place", [0, 1])
def test_a_death_behind_a_shared_prefix_changes_no_token(place: int, whole: Any) -> None:
    """Who takes over has no such pages: it is sent the whole prompt, by the caller if need be."""
    one, other = prompts(2, seed=4)
    with local_swarm(shipped_model(), parts(2) * 2) as local:
        model = local.swarm.model_now(str(shipped_model()), share_prefixes=True)
        greedy(model, one)
        known = {model.chain}
        seen: list[int] = []
        killed = False
        while not killed:  # sooner or later a session takes the way that another took
            seen = []
            settings: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False}
            for token in model.stream(other, eos_token_id=None, **settings):
                seen.append(token)
                if len(seen) == NEW // 2 and model.chain in known:
                    names = {record.node: record.name for record in local.swarm.nodes_now()}
                    local.kill(names[model.chain[place].node])
                    killed = True
            known.add(last(model).chain)
        assert last(model).shared_tokens == PREFIX_PAGES * PAGE_TOKENS
        assert seen == greedy(whole, other)
