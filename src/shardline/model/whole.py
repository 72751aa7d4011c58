"""A whole checkpoint in this process: for what cannot be loaded in parts, and to compare with."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError

from shardline.core.errors import CorruptWeights, Unsupported
from shardline.model.graph.example_inputs import configs_in
from shardline.model.library import quiet
from shardline.model.loading import BUILDING
from shardline.model.route import model_class, model_config

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

__all__ = ["load_whole"]


def load_whole(
    model_dir: Path, dtype: torch.dtype = torch.float32, *, cache: bool = True
) -> PreTrainedModel:
    """The network of this directory with its weights, of the class that its config names.

    Without `cache` it gives none back: no cache is a tensor that a graph could return. Reads
    safetensors only. Raises NoSuchModel, CorruptWeights or Unsupported.
    """
    config = copy.deepcopy(model_config(model_dir))
    for part in configs_in(config) if not cache else ():
        if hasattr(part, "use_cache"):
            part.use_cache = False
    kind: Any = model_class(config)
    try:
        with BUILDING, quiet():
            loaded = kind.from_pretrained(
                model_dir, config=config, dtype=dtype, local_files_only=True, use_safetensors=True
            )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CorruptWeights(f"{model_dir}: {' '.join(str(error).split())[:300]}") from None
    except (ValueError, ImportError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split())[:200]
        raise Unsupported(f"{config.model_type} cannot be loaded: {said}") from None
    return cast("PreTrainedModel", loaded.eval())
