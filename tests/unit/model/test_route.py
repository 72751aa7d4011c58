"""Which class of Transformers a checkpoint is of: the one that its config says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from transformers import BertConfig, CLIPTextConfig, PreTrainedConfig, T5Config, ViTConfig

from shardline.core.errors import NoSuchModel, Unsupported
from shardline.model.route import model_class, model_config, writes_text
from tests.parity.zoo import named

if TYPE_CHECKING:
    from pathlib import Path

SMALL: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64,
}  # fmt: skip


def saved(config: PreTrainedConfig, folder: Path, *architectures: str) -> PreTrainedConfig:
    """As it is read back."""
    typeless: Any = config
    typeless.architectures = list(architectures) or None
    typeless.save_pretrained(folder)
    return model_config(folder)


@pytest.mark.parametrize("architectures", [(), ("LlamaForCausalLM",), ("LLaMAForCausalLM",)])
def test_a_decoder_writes_text(architectures: tuple[str, ...], tmp_path: Path) -> None:
    config = saved(named("llama").make_config(), tmp_path, *architectures)
    assert writes_text(config)
    assert model_class(config).__name__ == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("architectures", "named_class"),
    [
        ((), "BertModel"),
        (("BertModel",), "BertModel"),
        (("BertForMaskedLM",), "BertForMaskedLM"),
        (("BertForSequenceClassification",), "BertForSequenceClassification"),
    ],
)
def test_an_encoder_does_not_though_it_could_be_built_as_a_decoder(
    architectures: tuple[str, ...], named_class: str, tmp_path: Path
) -> None:
    config = saved(BertConfig(**SMALL), tmp_path, *architectures)
    assert not writes_text(config)
    assert model_class(config).__name__ == named_class


def test_an_encoder_that_was_trained_to_write_does(tmp_path: Path) -> None:
    config = saved(BertConfig(**SMALL, is_decoder=True), tmp_path, "BertLMHeadModel")
    assert writes_text(config)


@pytest.mark.parametrize(
    ("config", "named_class"), [(T5Config(), "T5Model"), (ViTConfig(), "ViTModel")]
)
def test_without_a_word_it_is_the_network_without_a_task(
    config: PreTrainedConfig, named_class: str, tmp_path: Path
) -> None:
    assert model_class(saved(config, tmp_path)).__name__ == named_class


@pytest.mark.parametrize("name", ["ViTModel", "quiet", "os", "PreTrainedModel", "NoSuchThing"])
def test_a_name_that_is_not_of_this_configs_is_not_believed(name: str, tmp_path: Path) -> None:
    assert model_class(saved(BertConfig(**SMALL), tmp_path, name)).__name__ == "BertModel"


def test_a_config_of_no_network_is_refused() -> None:
    class Own(PreTrainedConfig):
        model_type = "nobody-knows"

    with pytest.raises(Unsupported, match="nobody-knows"):
        model_class(Own())


def test_no_model_is_none(tmp_path: Path) -> None:
    with pytest.raises(NoSuchModel):
        model_config(tmp_path)


def test_a_part_of_a_model_is_a_model(tmp_path: Path) -> None:
    assert model_class(saved(CLIPTextConfig(), tmp_path)).__name__ == "CLIPTextModel"
