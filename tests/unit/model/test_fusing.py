"""Modules that are done in one go: which they are, and that nothing else of them changes."""

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.models.cohere.modeling_cohere import CohereAttention
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRMSNorm
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralAttention
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from shardline.kernels import can_gate
from shardline.model import fusing
from shardline.model.fusing import fuse
from shardline.model.int8 import MixedInt8
from shardline.model.packed import PackedLinear
from shardline.model.weights import QuantisedLinear

BF16 = torch.bfloat16
NORMS = [LlamaRMSNorm, Qwen3RMSNorm, T5LayerNorm, GptOssRMSNorm, Gemma3RMSNorm]
MLPS = [LlamaMLP, Qwen2MLP]

here = pytest.mark.skipif(not can_gate(), reason="the texts are not for this processor")


def norm(kind: Any, width: int = 64) -> Any:
    made = kind(width)
    nn.init.normal_(made.weight)
    return made.to(BF16)


def mlp(kind: Any, activation: str = "silu") -> Any:
    return kind(LlamaConfig(hidden_size=32, intermediate_size=96, hidden_act=activation)).to(BF16)


def in_8_bits(linear: nn.Linear) -> QuantisedLinear:
    kind, weight = MixedInt8(), linear.weight.detach()
    product = kind.ready(kind.quantise(weight))
    return QuantisedLinear(product, linear.out_features, linear.in_features, None)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which of our functions did it."""
    calls: list[str] = []
    for name in ("normalised", "gated", "rotated"):
        ours = getattr(fusing, name)

        def call(*given: Any, ours: Any = ours, name: str = name) -> Any:
            found = ours(*given)
            calls.extend([name] if found is not None else [])
            return found

        monkeypatch.setattr(fusing, name, call)
    return calls


@here
@pytest.mark.parametrize("kind", NORMS)
def test_norms_have_the_bits_of_their_own_forward(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, plain, x = counted(monkeypatch), norm(kind), torch.randn(2, 3, 64).to(BF16)
    fused = copy.deepcopy(plain)
    fuse(fused)
    with torch.no_grad():
        assert torch.equal(fused(x), plain(x))
    assert calls == ["normalised"]
    assert isinstance(fused, kind)
    assert repr(fused) == repr(plain)
    assert list(fused.state_dict()) == ["weight"]


@here
@pytest.mark.parametrize("kind", MLPS)
@pytest.mark.parametrize("activation", ["silu", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("held", [PackedLinear, in_8_bits])
def test_gates_have_the_bits_of_their_own_forward(
    kind: Any,
    activation: str,
    held: Callable[[nn.Linear], nn.Module],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls, plain = counted(monkeypatch), mlp(kind, activation)
    fused, x = copy.deepcopy(plain), torch.randn(2, 3, 32).to(BF16)
    fuse(fused)
    for layer in ("gate_proj", "up_proj", "down_proj"):
        setattr(plain, layer, held(getattr(plain, layer)))
        setattr(fused, layer, getattr(plain, layer))
    with torch.no_grad():
        assert torch.equal(fused(x), plain(x))
    assert calls == ["gated"]
    assert repr(fused) == repr(plain)


def attention(kind: Any) -> Any:
    config: Any = LlamaConfig(hidden_size=64, num_attention_heads=4, num_key_value_heads=2)
    config._attn_implementation, config.use_qk_norm = "sdpa", False  # noqa: SLF001
    return kind(config, 0).to(BF16)


def attended(module: Any, tokens: int) -> torch.Tensor:
    sides = torch.randn(2, 1, tokens, 16, generator=torch.Generator().manual_seed(1)).to(BF16)
    x = torch.randn(2, tokens, 64, generator=torch.Generator().manual_seed(2)).to(BF16)
    return module(x, position_embeddings=(sides[0], sides[1]), attention_mask=None)[0]


@here
@pytest.mark.parametrize("kind", [LlamaAttention, MistralAttention])
@pytest.mark.parametrize("tokens", [1, 5])
def test_attentions_rotate_with_the_bits_of_their_own(
    kind: Any, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, plain = counted(monkeypatch), attention(kind)
    fused = copy.deepcopy(plain)
    fuse(fused)
    fuse(fused)
    with torch.no_grad():
        assert torch.equal(attended(fused, tokens), attended(plain, tokens))
    assert calls == ["rotated"]
    assert isinstance(fused, kind)
    assert repr(fused) == repr(plain)
    assert attended(fused, tokens).requires_grad
    assert calls == ["rotated"]


def test_positions_that_are_rotated_otherwise_are_left() -> None:
    other: Any = attention(CohereAttention)
    fuse(other)
    assert type(other) is CohereAttention


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_what_needs_gradients_or_is_not_bfloat16_goes_its_own_way(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch)
    plain = nn.Sequential(norm(LlamaRMSNorm, 32), mlp(LlamaMLP))
    fused = copy.deepcopy(plain)
    fuse(fused)
    x = torch.randn(3, 32, dtype=dtype)
    for model in (plain, fused):
        model.to(dtype)
    with torch.set_grad_enabled(dtype == BF16):
        assert torch.equal(fused(x), plain(x))
        if dtype == BF16:
            fused(x).sum().backward()
            assert fused[0].weight.grad is not None
    assert calls == []


@pytest.mark.parametrize(
    "other",
    [
        nn.LayerNorm(64, dtype=BF16),
        nn.RMSNorm(64, dtype=BF16),
        norm(LlamaRMSNorm, 63),
        LlamaRMSNorm(64),
        norm(LlamaRMSNorm).to("meta"),
        mlp(LlamaMLP, "gelu"),
    ],
)
def test_others_are_left(other: nn.Module) -> None:
    kind = type(other)
    fuse(other)
    assert type(other) is kind


def test_a_class_that_does_more_is_left() -> None:
    class Clipped(LlamaRMSNorm):
        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            return super().forward(hidden_states).clamp(-1, 1)

    class Otherwise(Gemma3RMSNorm):
        def _norm(self, x: torch.Tensor) -> torch.Tensor:
            return x / x.abs().amax(-1, keepdim=True)

    for kind in (Clipped, Otherwise):
        other = norm(kind)
        fuse(other)
        assert type(other) is kind


@here
def test_a_fused_module_goes_when_it_is_let_go() -> None:
    block: Any = nn.Sequential(norm(LlamaRMSNorm, 32), mlp(LlamaMLP))
    fuse(block)
    fuse(block)
    gone: weakref.ref[Any] = weakref.ref(block[1].gate_proj.weight)
    gc.disable()
    try:
        del block
        assert gone() is None
    finally:
        gc.enable()


def test_the_activations_that_are_taken_are_transformers_own() -> None:
    registry: Any = ACT2FN
    for name in ("silu", "gelu_pytorch_tanh"):
        assert type(registry[name]) in fusing.ACTIVATIONS
