"""Which class of Transformers a checkpoint is of, by its config alone.

Many encoders can be built as decoders too, and a decoder can be built without its head, but as
models that nobody trained (BERT as `BertLMHeadModel`). So the config's own word for the checkpoint
is asked first.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel, AutoModelForMaskedLM, PreTrainedModel

from shardline.core.errors import CorruptWeights, NoSuchModel, Unsupported
from shardline.model.library import causal_class, quiet, read_config, text_config

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedConfig

__all__ = ["build_on_meta", "model_class", "model_config", "writes_text"]

_auto_model: Any = AutoModel
_masked: Any = AutoModelForMaskedLM
_WRITERS = ("ForCausalLM", "LMHeadModel")
"""How Transformers names models that write text, in old configs too."""
_BAD_CONFIG = (ValueError, KeyError, TypeError, AttributeError, OSError)


def model_config(model_dir: Path) -> PreTrainedConfig:
    """This directory's config; raises NoSuchModel, CorruptWeights or Unsupported, saying why."""
    file = model_dir / "config.json"
    if not file.is_file():
        raise NoSuchModel(f"{model_dir} has no config.json")
    try:
        json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise CorruptWeights(f"{file}: no JSON") from None
    try:
        with quiet():
            config = read_config(model_dir)
    except (*_BAD_CONFIG, StrictDataclassError) as error:
        if "trust_remote_code" in str(error):
            raise Unsupported(f"{model_dir} needs code of its own, which is never run") from None
        reason = " ".join(str(error).split())[:200]
        raise Unsupported(f"{file} describes no model known here: {reason}") from None
    if getattr(config, "quantization_config", None) is not None:
        raise Unsupported(f"{model_dir} is quantised already: give the unquantised checkpoint")
    if getattr(text_config(config), "kv_sharing_modes", None) is not None:
        raise Unsupported(f"{model_dir} shares one block's cache with others: it cannot be cut")
    return config


def writes_text(config: PreTrainedConfig) -> bool:
    """Whether this is a checkpoint of a causal language model."""
    try:
        writer = causal_class(config).__name__
    except KeyError:
        return False
    if config.architectures:
        return any(name == writer or name.endswith(_WRITERS) for name in config.architectures)
    return not (config.is_encoder_decoder or type(config) in _masked._model_mapping)  # noqa: SLF001


def model_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class whose weights this checkpoint holds; raises Unsupported where there is none."""
    if writes_text(config):
        return causal_class(config)
    for name in config.architectures or ():
        found = getattr(transformers, name, None)
        if (
            isinstance(found, type)
            and issubclass(found, PreTrainedModel)
            and isinstance(config, cast("Any", found).config_class or ())
        ):
            return found
    try:
        found = _auto_model._model_mapping[type(config)]  # noqa: SLF001
    except KeyError:
        raise Unsupported(f"no network of {config.model_type} is known here") from None
    return cast("type[PreTrainedModel]", found[0] if isinstance(found, tuple) else found)


def build_on_meta(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The network of this config, with shapes and no weights.

    Raises Unsupported, saying why it cannot be built.
    """
    kind: Any = model_class(config)
    try:
        with torch.device("meta"):
            own = config if isinstance(config, kind.config_class) else text_config(config)
            return kind._from_config(own, dtype=dtype)  # noqa: SLF001
    except (*_BAD_CONFIG, ImportError) as error:
        said = " ".join(str(error).split())[:200]
        raise Unsupported(f"{config.model_type} cannot be built from its config: {said}") from None
