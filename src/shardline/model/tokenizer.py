"""A model's own tokenizer, for whoever types text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from shardline.core.errors import NoSuchModel
from shardline.model.library import quiet

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["load_tokenizer"]

_auto_tokenizer: Any = AutoTokenizer


def load_tokenizer(model_dir: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of this directory; raises NoSuchModel if there is none that can be used."""
    with quiet():
        try:
            tokenizer: Any = _auto_tokenizer.from_pretrained(model_dir, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise NoSuchModel(f"{model_dir} has no tokenizer that can be used: {reason}") from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise NoSuchModel(f"{model_dir} has no tokenizer.json: text cannot be streamed without")
    return tokenizer
