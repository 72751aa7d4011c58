"""Attention by groups of heads: the same as head by head, and only where nobody counts on bits."""

from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import FalconConfig, LlamaConfig, PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from shardline.model import attending
from shardline.model.attending import can_group
from shardline.model.route import build_on_meta

head_by_head: Any = cast("Any", ALL_ATTENTION_FUNCTIONS)[attending.GROUPS]
by_groups: Any = attending._by_groups  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]


class Attention(nn.Module):
    """What Transformers' function asks of a module."""

    is_causal = True

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups


@given(
    rows=st.integers(1, 3),
    shared=st.integers(1, 4),
    groups=st.integers(1, 8),
    length=st.integers(1, 600),
    width=st.sampled_from([8, 64]),
)
def test_a_lone_token_gets_what_it_gets_head_by_head(
    rows: int, shared: int, groups: int, length: int, width: int
) -> None:
    query = torch.randn(rows, shared * groups, 1, width)
    key, value = torch.randn(2, rows, shared, length, width)
    inputs = Attention(groups), query, key, value, None
    plain, _ = head_by_head(*inputs, scaling=0.3)
    grouped, weights = by_groups(head_by_head, *inputs, scaling=0.3)
    assert weights is None
    torch.testing.assert_close(grouped, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("heads", "tokens", "masked", "asked"),
    [(8, 1, False, 2), (8, 1, True, 8), (8, 3, False, 8), (2, 1, False, 2), (3, 1, False, 3)],
)
def test_only_a_lone_token_without_a_mask_is_grouped(
    heads: int, tokens: int, *, masked: bool, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def attend(_: object, query: torch.Tensor, *__: object, **___: object) -> Any:
        seen.append(query.shape[1])
        return query.transpose(1, 2), None

    def torchs(query: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        seen.append(query.shape[1])
        return query

    monkeypatch.setattr("shardline.model.attending._sdpa", torchs)

    key = torch.randn(1, 2, 5, 4)
    mask = torch.zeros(1, 1, tokens, 5) if masked else None
    out, _ = by_groups(attend, Attention(4), torch.randn(1, heads, tokens, 4), key, key, mask)
    assert out.shape == (1, tokens, heads, 4)
    assert seen == [asked]


def block(config: PreTrainedConfig, dtype: torch.dtype) -> nn.Module:
    whole: Any = build_on_meta(config, dtype)
    blocks: nn.ModuleList = whole.transformer.h if hasattr(whole, "transformer") else (
        whole.model.layers
    )  # fmt: skip
    return blocks[0]


def test_lone_sessions_are_grouped_in_16_bits_and_never_in_32() -> None:
    config = LlamaConfig(hidden_size=16, num_attention_heads=4, num_key_value_heads=2)
    config.num_hidden_layers = 1
    assert can_group(block(config, torch.bfloat16), torch.bfloat16)
    assert not can_group(block(config, torch.float32), torch.float32)


def test_models_that_attend_by_themselves_are_left() -> None:
    config = FalconConfig(hidden_size=16, num_attention_heads=4, num_hidden_layers=1)
    assert not can_group(block(config, torch.bfloat16), torch.bfloat16)
