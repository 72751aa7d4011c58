"""What a span keeps of a decoder's tokens and of an encoder's states."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import T5Config

from shardline.core.errors import PeerFault
from shardline.core.spans import Span
from shardline.model import CrossCache, SpanCache, cache_length

STATES = torch.ones(1, 5, 16)


def stepped(tokens: int = 2) -> Any:
    """Of blocks 1 and 2 of three, after a first step of so many tokens on five states."""
    config = T5Config(num_layers=3, num_decoder_layers=3, d_model=16, d_kv=4, num_heads=2)
    cache: Any = CrossCache(SpanCache(config, Span(1, 3)))
    cache.keep((STATES,))
    for layer in (1, 2):
        own, theirs = (torch.ones(1, 2, count, 4) for count in (tokens, 5))
        cache.self_attention_cache.update(own, own, layer)
        cache.cross_attention_cache.update(theirs, theirs, layer)
        cache.is_updated[layer] = True
    cache.tokens += tokens
    return cache


def test_both_kinds_of_tokens_are_held_and_lengths_are_the_decoders() -> None:
    cache = stepped()
    cache.check_integrity()
    assert cache.tokens == cache_length(cache) == cache.get_seq_length(1) == 2
    assert cache.get_seq_length(0) == 2, "a layer that is not held is as long"
    assert cache.held_tokens == 2 + 5
    keys_values = 2 * 2 * 4 * torch.float32.itemsize
    assert cache.memory_bytes == 2 * (2 + 5) * keys_values + STATES.nbytes


def test_states_come_once_and_stay() -> None:
    cache = stepped()
    (kept,) = cache.keep(())
    assert kept is STATES
    with pytest.raises(PeerFault, match="after a session's first step"):
        cache.keep((STATES,))


def test_it_is_neither_shared_nor_cut_nor_truncated() -> None:
    cache = stepped()
    assert not cache.keeps_all
    assert cache.pages(0, 64) is None
    with pytest.raises(ValueError, match="cannot be cut to 1 tokens"):
        cache.truncate(1)


def test_a_copy_goes_its_own_way() -> None:
    cache = stepped()
    other = copy.deepcopy(cache)
    other.self_attention_cache.update(torch.ones(1, 2, 1, 4), torch.ones(1, 2, 1, 4), 1)
    assert other.get_seq_length(1) == 3
    assert cache.get_seq_length(1) == 2
    assert other.own is other.self_attention_cache


def test_a_cache_whose_states_do_not_fit_its_layers_is_noticed() -> None:
    cache = stepped()
    cache.kept = (STATES[:, :3],)
    with pytest.raises(AssertionError):
        cache.check_integrity()
