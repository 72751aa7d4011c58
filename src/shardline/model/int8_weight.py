"""8-bit weights, 16-bit inputs: no input is rounded, whatever its size (PAPER section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn import functional

from shardline.model.int8 import quantise_rows

if TYPE_CHECKING:
    from shardline.model.weights import Product

__all__ = ["WeightInt8"]

ROWS_FEW: Final = 16
"""Up to so many rows torch's kernel is quickest; beyond, it is to make 16-bit weights in pieces."""
ALIGNED: Final = 64
STEP: Final = 16
"""Bytes, and inputs: torch's kernel wants rows aligned so; where they are not, the process dies."""
PIECE: Final = 256
"""Outputs at a time: their 16-bit weights stay in the processor's cache."""
_torch: Any = torch


@dataclass(frozen=True, slots=True)
class WeightInt8:
    """See the module."""

    @property
    def word(self) -> str:
        """See Kind."""
        return "int8-weight"

    def takes(self, outputs: int, inputs: int) -> bool:
        """Rows of whole steps of the kernel."""
        return outputs > 0 and inputs % STEP == 0

    def memory_bytes(self, outputs: int, inputs: int) -> int:
        """See Kind."""
        return outputs * inputs + outputs * torch.bfloat16.itemsize

    def quantise(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """Codes, and the scale of each output."""
        codes, scale = quantise_rows(weight, torch.bfloat16)
        return {"codes": codes, "scale": scale}

    def ready(self, tensors: dict[str, torch.Tensor]) -> Product:
        """See Kind; in memory of torch's own, as what is mapped may begin anywhere."""
        return _Scaled(tensors["codes"].clone(), tensors["scale"].clone())


class _Scaled:
    def __init__(self, codes: torch.Tensor, scale: torch.Tensor) -> None:
        self.memory_bytes = codes.nbytes + scale.nbytes
        self._codes = codes
        self._scale = scale

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.to(torch.bfloat16)  # in float32 this kernel is ten times slower
        if len(rows) <= ROWS_FEW:
            rows = rows.contiguous()
            if rows.data_ptr() % ALIGNED:  # as what was cut from a message may be
                rows = rows.clone()
            mm = _torch._weight_int8pack_mm  # noqa: SLF001
            return mm(rows, self._codes, self._scale).to(x.dtype)
        starts = range(0, len(self._codes), PIECE)
        pieces = [
            functional.linear(rows, self._codes[start : start + PIECE].to(torch.bfloat16))
            for start in starts
        ]
        return torch.cat(pieces, 1).mul_(self._scale).to(x.dtype)
