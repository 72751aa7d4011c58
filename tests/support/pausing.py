"""Let something happen at one token of a text, with no token written meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import StoppingCriteria

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Pause"]


class Pause(StoppingCriteria):
    """Does this in the generating thread once the text is so many tokens long, prompt and all.

    A stream's reader may lag behind: what it does at its tenth token comes at any later one.
    """

    def __init__(self, tokens: int, do: Callable[[], object]) -> None:
        self._tokens = tokens
        self._do = do

    def __call__(
        self,
        input_ids: torch.LongTensor,
        scores: tuple[torch.Tensor] | None,
        **_: Any,
    ) -> torch.BoolTensor:
        rows, tokens = input_ids.shape
        if tokens == self._tokens:
            self._do()
        return torch.BoolTensor([False] * rows)
