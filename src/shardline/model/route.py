"""Whether a checkpoint goes by the chain route: its config names a model that writes text.

Many encoders can be built as decoders too and would then have a chain, but of a model that nobody
trained (BERT as `BertLMHeadModel`). So the config's own word for the checkpoint is asked first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import AutoModelForMaskedLM

from shardline.core.errors import NoChain
from shardline.model.library import causal_class
from shardline.model.tracing import model_config, trace

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedConfig

    from shardline.model.chain import ChainPlan

__all__ = ["find_chain"]

_masked: Any = AutoModelForMaskedLM
_WRITERS = ("ForCausalLM", "LMHeadModel")
"""How Transformers names models that write text, in old configs too."""


def find_chain(model_dir: Path) -> ChainPlan:
    """The chain of a checkpoint that writes text, from `config.json` alone.

    Raises NoChain, with why and which route would serve it, also for a model that could be cut but
    is no decoder; NoSuchModel, CorruptWeights or Unsupported as `trace` does.
    """
    config = model_config(model_dir)
    if not _writes(config):
        named = (config.architectures or [type(config).__name__.removesuffix("Config")])[0]
        raise NoChain(f"{named} does not write text: the graph route serves it")
    return trace(model_dir)


def _writes(config: PreTrainedConfig) -> bool:
    try:
        writer = causal_class(config).__name__
    except KeyError:
        return True  # there is no such class: tracing says so, in its own words
    if config.architectures:
        return any(name == writer or name.endswith(_WRITERS) for name in config.architectures)
    return not (config.is_encoder_decoder or type(config) in _masked._model_mapping)  # noqa: SLF001
