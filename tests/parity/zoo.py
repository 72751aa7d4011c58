"""Tiny random models, one of each architecture that must be cut right.

To add an architecture, add one entry to `ZOO`. Sizes are multiples of 8 (grouped expert kernels
want 16-byte strides on the meta device); weights are drawn wide, so that tokens vary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import safetensors.torch
import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ZOO", "Tiny", "enliven", "make", "named", "read_tensors", "write_tensors"]

BLOCKS = 4
COMMON: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
MOE: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
}


@dataclass(frozen=True)
class Tiny:
    """One tiny model: the config class of Transformers and what is special about it."""

    name: str
    config: str
    fields: dict[str, Any] = field(default_factory=dict[str, Any])
    without: tuple[str, ...] = ()
    """Fields of COMMON that this config does not know."""
    auto: str = "AutoModelForCausalLM"
    """The class of Transformers that makes the model of its config."""

    def make_config(self) -> PreTrainedConfig:
        kept = {key: value for key, value in COMMON.items() if key not in self.without}
        make_config = getattr(transformers, self.config)
        return cast("PreTrainedConfig", make_config(**(kept | self.fields)))


ZOO: tuple[Tiny, ...] = (
    Tiny("llama", "LlamaConfig"),
    Tiny("llama-tied", "LlamaConfig", {"tie_word_embeddings": True}),
    Tiny("mistral", "MistralConfig", {"sliding_window": 6}),
    Tiny("qwen3", "Qwen3Config"),
    Tiny(
        "qwen2-moe",
        "Qwen2MoeConfig",
        MOE | {"shared_expert_intermediate_size": 64, "mlp_only_layers": [1]},
    ),
    Tiny("qwen3-moe", "Qwen3MoeConfig", MOE),
    Tiny("mixtral", "MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    Tiny("gemma", "GemmaConfig"),
    Tiny("gemma2", "Gemma2Config", {"sliding_window": 6, "query_pre_attn_scalar": 16}),
    Tiny(
        "gemma3",
        "Gemma3TextConfig",
        {"sliding_window": 6, "sliding_window_pattern": 2, "query_pre_attn_scalar": 16},
    ),
    Tiny("phi3", "Phi3Config", {"sliding_window": 6}),
    Tiny("gpt2", "GPT2Config", {"n_inner": 96}),
    Tiny("gpt-neox", "GPTNeoXConfig"),
    Tiny(
        "falcon-rotary",
        "FalconConfig",
        {"alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2},
        without=("head_dim", "num_key_value_heads", "intermediate_size"),
    ),
    Tiny(
        "falcon-alibi",
        "FalconConfig",
        {"alibi": True, "new_decoder_architecture": False, "parallel_attn": False},
        without=("head_dim", "num_key_value_heads", "intermediate_size"),
    ),
    Tiny("bloom", "BloomConfig", without=("max_position_embeddings",)),
    Tiny("opt", "OPTConfig", {"ffn_dim": 96, "word_embed_proj_dim": 64}),
    Tiny(
        "mamba",
        "MambaConfig",
        {"state_size": 8, "time_step_rank": 4},
        without=("max_position_embeddings",),
    ),
    Tiny(
        "qwen3-next",
        "Qwen3NextConfig",
        MOE
        | {
            "layer_types": ["linear_attention", "full_attention"] * (BLOCKS // 2),
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "shared_expert_intermediate_size": 64,
        },
    ),
    Tiny(
        "deepseek-v3",
        "DeepseekV3Config",
        {
            "num_key_value_heads": 4,
            "moe_intermediate_size": 48,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 16,
            "q_lora_rank": 24,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "v_head_dim": 16,
        },
        without=("head_dim",),
    ),
    Tiny(
        "gpt-oss",
        "GptOssConfig",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
)


def named(name: str) -> Tiny:
    """The entry of this name."""
    return next(tiny for tiny in ZOO if tiny.name == name)


def make(tiny: Tiny, directory: Path, *, seed: int = 0, shard_size: str = "1GB") -> PreTrainedModel:
    """The whole model in float32 with seeded, lively weights; saved in this directory."""
    typeless: Any = getattr(transformers, tiny.auto)
    model = cast("PreTrainedModel", typeless.from_config(tiny.make_config()))
    enliven(model, seed)
    typeless = model.eval()
    typeless.save_pretrained(directory, max_shard_size=shard_size)
    return model


def enliven(model: PreTrainedModel, seed: int = 0) -> None:
    """Give a model seeded weights that are wide enough for what goes in to matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                inputs = parameter[0].numel() if parameter.dim() > 3 else parameter.shape[-1]
                parameter.copy_(noise * 2.0 / inputs**0.5)
            else:
                parameter.add_(noise * 0.1)


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file."""
    typeless: Any = safetensors.torch
    return cast("dict[str, torch.Tensor]", typeless.load_file(file))


def write_tensors(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Put these tensors, and no others, into a safetensors file."""
    typeless: Any = safetensors.torch
    typeless.save_file(tensors, file, {"format": "pt"})
