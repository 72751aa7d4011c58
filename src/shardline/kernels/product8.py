"""A matrix of weights in 8 bits, in panels, and the product with it of rows that it quantises."""

from __future__ import annotations

from typing import Final

import torch

from shardline.kernels.arithmetic import INT8
from shardline.kernels.code import OUTPUTS
from shardline.kernels.panels import Held, Otherwise, in_panels, takes

__all__ = ["Panels8"]

MIDDLE: Final = 128
"""The inputs' whole numbers are so many too many, so that none is negative."""


class Panels8(Held):
    """Codes (outputs, inputs) and the outputs' scales; what `takes` refuses it cannot be."""

    def __init__(self, codes: torch.Tensor, scale: torch.Tensor) -> None:
        outputs, inputs = codes.shape
        panels = outputs // OUTPUTS
        over = codes.sum(1, dtype=torch.int32).mul_(MIDDLE).view(panels, 1, OUTPUTS)
        scales = scale.float().view(torch.int32).view(panels, 1, OUTPUTS)
        beside = torch.cat([over, scales], 1)
        super().__init__(in_panels(codes, INT8), beside, inputs, INT8)

    @staticmethod
    def takes(codes: torch.Tensor) -> bool:
        """Whether these codes can be held so here: whole panels of four inputs, in 8 bits."""
        return takes(codes, INT8)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Rows (…, inputs) in bfloat16 or float32 -> (…, outputs), each row's bits its own."""
        return self._times(x)

    def within(self, x: torch.Tensor, most: float, otherwise: Otherwise) -> torch.Tensor:
        """The same; `otherwise` of all rows if an input is larger than `most`, or no number."""
        return self._times(x, most, otherwise)
