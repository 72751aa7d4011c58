"""Which checkpoints go by the chain: those whose config says that they write text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from transformers import BertConfig, T5Config, ViTConfig

from shardline.core.errors import NoChain, NoSuchModel
from shardline.model.route import find_chain
from tests.parity.zoo import named

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedConfig

SMALL: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64,
}  # fmt: skip


def saved(config: PreTrainedConfig, folder: Path, *architectures: str) -> Path:
    typeless: Any = config
    typeless.architectures = list(architectures) or None
    typeless.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("architectures", [(), ("LlamaForCausalLM",), ("LLaMAForCausalLM",)])
def test_a_decoder_has_its_chain(architectures: tuple[str, ...], tmp_path: Path) -> None:
    config = named("llama").make_config()
    assert find_chain(saved(config, tmp_path, *architectures)).blocks == 4


@pytest.mark.parametrize(
    ("architectures", "said"),
    [
        ((), "Bert does not write text: "),
        (("BertModel",), "BertModel does not write text: "),
        (("BertForMaskedLM",), "BertForMaskedLM does not write text: "),
    ],
)
def test_an_encoder_has_none_though_it_could_be_built_as_a_decoder(
    architectures: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    with pytest.raises(NoChain, match=said):
        find_chain(saved(BertConfig(**SMALL), tmp_path, *architectures))


def test_an_encoder_that_was_trained_to_write_has_one(tmp_path: Path) -> None:
    config = BertConfig(**SMALL, is_decoder=True)
    assert find_chain(saved(config, tmp_path, "BertLMHeadModel")).blocks == 2


@pytest.mark.parametrize("config", [T5Config(), ViTConfig()], ids=["t5", "vit"])
def test_what_is_no_decoder_at_all_has_none(config: PreTrainedConfig, tmp_path: Path) -> None:
    with pytest.raises(NoChain, match="no causal language model"):
        find_chain(saved(config, tmp_path))


def test_no_model_is_none(tmp_path: Path) -> None:
    with pytest.raises(NoSuchModel):
        find_chain(tmp_path)
