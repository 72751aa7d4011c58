"""A matrix of weights in 8 bits, in panels, and the product with it of rows that it quantises."""

from __future__ import annotations

import ctypes
from typing import Final, NamedTuple

import torch

from shardline.kernels.arithmetic import INT8
from shardline.kernels.code import OUTPUTS
from shardline.kernels.company import in_company
from shardline.kernels.compiling import functions
from shardline.kernels.laying import SLACK_BYTES
from shardline.kernels.panels import in_panels, takes

__all__ = ["Panels8"]

MIDDLE: Final = 128
"""The inputs' whole numbers are so many too many, so that none is negative."""
_Job = ctypes.c_int64 * 10


class _Laid(NamedTuple):
    """Rows that are quantised, in tiles."""

    rows: int
    peak: float
    tiles_at: int
    scales_at: int
    held: torch.Tensor


class Panels8:
    """Codes (outputs, inputs) and the outputs' scales; what `takes` refuses it cannot be."""

    def __init__(self, codes: torch.Tensor, scale: torch.Tensor) -> None:
        self.outputs, self.inputs = codes.shape
        self._panels = in_panels(codes, INT8)
        panels, self._steps = self._panels.shape[:2]
        over = codes.sum(1, dtype=torch.int32).mul_(MIDDLE).view(panels, 1, OUTPUTS)
        scales = scale.float().view(torch.int32).view(panels, 1, OUTPUTS)
        self._beside = torch.cat([over, scales], 1)
        self._held_at = self._panels.data_ptr(), self._beside.data_ptr()
        self._sizes = self._steps, self._steps, panels
        self._run = functions(INT8)

    @staticmethod
    def takes(codes: torch.Tensor) -> bool:
        """Whether these codes can be held so here: whole panels of four inputs, in 8 bits."""
        return takes(codes, INT8)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Rows (…, inputs) in bfloat16 or float32 -> (…, outputs), each row's bits its own."""
        return self._times(x, self._laid(x))

    def within(self, x: torch.Tensor, most: float) -> torch.Tensor | None:
        """The same; None if an input is larger than `most`, or no number."""
        laid = self._laid(x)
        return self._times(x, laid) if laid.peak <= most else None

    def _laid(self, x: torch.Tensor) -> _Laid:
        if x.shape[-1] != self.inputs or x.dtype not in self._run.lay:
            raise ValueError(f"{x.dtype} rows of {x.shape[-1]}, not floats of {self.inputs}")
        rows = x.numel() // self.inputs
        many, lying = in_company(rows), x.contiguous()
        bytes_of_tiles = many * self.inputs + SLACK_BYTES
        scratch = torch.empty(bytes_of_tiles + many * torch.float32.itemsize, dtype=torch.uint8)
        tiles = scratch.data_ptr()
        scales = tiles + bytes_of_tiles
        if not rows:
            return _Laid(0, 0.0, tiles, scales, scratch)
        peak = self._run.lay[x.dtype](lying.data_ptr(), tiles, scales, rows, many, self._steps)
        return _Laid(many, peak, tiles, scales, scratch)

    def _times(self, x: torch.Tensor, laid: _Laid) -> torch.Tensor:
        out = x.new_empty(laid.rows, self.outputs)
        weights, beside = self._held_at
        of_all = laid.tiles_at, weights, out.data_ptr(), beside, laid.scales_at
        if laid.rows:
            self._run.product(_Job(*of_all, laid.rows, *self._sizes, out.itemsize))
        return out.resize_(*x.shape[:-1], self.outputs)
