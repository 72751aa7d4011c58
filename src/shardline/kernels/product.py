"""A matrix of weights in bfloat16, in panels, and the product of rows with it."""

from __future__ import annotations

from typing import Final

import torch

from shardline.kernels.arithmetic import BF16
from shardline.kernels.panels import Held, in_panels, of_panels, takes

__all__ = ["Panels"]

STRETCH_SHORT: Final = 512
STRETCH: Final = 1024
"""Inputs whose products are summed one after the other; the sums of stretches are then added. So
oneDNN does, with short stretches for no more inputs than this: results have the very same bits."""


class Panels(Held):
    """Weights of (outputs, inputs) as the product reads them; what `takes` refuses it cannot be."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        outputs, inputs = weight.shape
        added = torch.zeros(outputs) if bias is None else bias.float().clone()
        stretch = STRETCH if inputs > STRETCH else STRETCH_SHORT
        super().__init__(in_panels(weight, BF16), added, stretch, BF16)

    @staticmethod
    def takes(weight: torch.Tensor) -> bool:
        """Whether these weights can be held so here: whole panels of pairs, in bfloat16."""
        return takes(weight, BF16)

    def weight(self) -> torch.Tensor:
        """The weights as they were, copied."""
        return of_panels(self._panels)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Rows (…, inputs) in bfloat16 -> (…, outputs); each row's bits are its own."""
        return self._times(x)
