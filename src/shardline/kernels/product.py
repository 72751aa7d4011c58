"""A matrix of weights in bfloat16, in panels, and the product of rows with it."""

from __future__ import annotations

import ctypes
from typing import Final

import torch

from shardline.kernels.arithmetic import BF16
from shardline.kernels.company import in_company
from shardline.kernels.compiling import functions
from shardline.kernels.panels import in_panels, of_panels, takes

__all__ = ["Panels"]

STRETCH_SHORT: Final = 512
STRETCH: Final = 1024
"""Inputs whose products are summed one after the other; the sums of stretches are then added. So
oneDNN does, with short stretches for no more inputs than this: results have the very same bits."""
_Job = ctypes.c_int64 * 10


class Panels:
    """Weights of (outputs, inputs) as the product reads them; what `takes` refuses it cannot be."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.outputs, self.inputs = weight.shape
        self._panels = in_panels(weight, BF16)
        self._bias = torch.zeros(self.outputs) if bias is None else bias.float().clone()
        self._held_at = self._panels.data_ptr(), self._bias.data_ptr()
        stretch = STRETCH if self.inputs > STRETCH else STRETCH_SHORT
        self._steps = self.inputs // BF16.inputs
        self._sizes = self._steps, stretch // BF16.inputs, len(self._panels), weight.itemsize
        self._run = functions(BF16)

    @staticmethod
    def takes(weight: torch.Tensor) -> bool:
        """Whether these weights can be held so here: whole panels of pairs, in bfloat16."""
        return takes(weight, BF16)

    def weight(self) -> torch.Tensor:
        """The weights as they were, copied."""
        return of_panels(self._panels)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Rows (…, inputs) in bfloat16 -> (…, outputs); each row's bits are its own."""
        if x.shape[-1] != self.inputs or x.dtype != torch.bfloat16:
            raise ValueError(f"{x.dtype} rows of {x.shape[-1]}, not bfloat16 of {self.inputs}")
        rows = x.numel() // self.inputs
        many = in_company(rows)
        out, x = x.new_empty(many, self.outputs), x.contiguous()
        if rows:
            self._into(out, x, rows)
        return out.resize_(*x.shape[:-1], self.outputs)

    def _into(self, out: torch.Tensor, x: torch.Tensor, rows: int) -> None:
        many = len(out)
        tiles = x
        if rows > 1:
            tiles = x.new_empty(many, self.inputs)
            lay = self._run.lay[torch.bfloat16]
            lay(x.data_ptr(), tiles.data_ptr(), 0, rows, many, self._steps)
        weights, bias = self._held_at
        self._run.product(
            _Job(tiles.data_ptr(), weights, out.data_ptr(), bias, 0, many, *self._sizes)
        )
