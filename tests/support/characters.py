"""A tokenizer for tiny models: each printable character is a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CHARACTERS", "save_characters"]

CHARACTERS = [chr(code) for code in range(32, 128)]


def save_characters(directory: Path) -> None:
    """Put it into a model's directory."""
    words = Tokenizer(models.BPE({sign: code for code, sign in enumerate(CHARACTERS)}, []))
    words.decoder = cast("Any", decoders).Fuse()
    typeless: Any = PreTrainedTokenizerFast(tokenizer_object=words)
    typeless.save_pretrained(directory)
