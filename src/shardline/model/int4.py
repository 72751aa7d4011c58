"""4-bit weights in groups with a scale and an offset each, 16-bit inputs (PAPER section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from shardline.model.weights import Product

__all__ = ["GROUP", "GroupInt4"]

GROUP: Final = 64
"""Inputs that share a scale: 32, 64, 128 or 256. Fewer are more exact and take more memory."""
LEVELS: Final = 15
MIDDLE: Final = 8
"""The code that stands for a group's offset, by the kernel's convention."""
OUTPUTS: Final = 16
"""The kernel wants a multiple of so many."""
ROWS: Final = 512
TINY: Final = 2.0**-100
_torch: Any = torch


@dataclass(frozen=True, slots=True)
class GroupInt4:
    """See the module."""

    group: int = GROUP

    @property
    def word(self) -> str:
        """See Kind."""
        return "int4" if self.group == GROUP else f"int4@{self.group}"

    def takes(self, outputs: int, inputs: int) -> bool:
        """Whole groups, and outputs as the kernel wants them."""
        return outputs % OUTPUTS == 0 and inputs % self.group == 0

    def memory_bytes(self, outputs: int, inputs: int) -> int:
        """See Kind."""
        return outputs * inputs // 2 + outputs * inputs // self.group * 2 * torch.bfloat16.itemsize

    def quantise(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """Two codes a byte, and each group's scale and offset, as the kernel wants them."""
        outputs, inputs = weight.shape
        codes = torch.empty((outputs, inputs // 2), dtype=torch.uint8)
        groups = torch.empty((inputs // self.group, outputs, 2), dtype=torch.bfloat16)
        for start in range(0, outputs, ROWS):
            rows = weight[start : start + ROWS].float().view(-1, inputs // self.group, self.group)
            low, high = torch.aminmax(rows, dim=-1)
            scale = ((high - low) / LEVELS).clamp_(min=TINY).bfloat16()
            middle = (low + scale.float() * MIDDLE).bfloat16()
            steps = (rows - middle.float()[..., None]) / scale.float()[..., None] + MIDDLE
            whole = steps.round_().clamp_(0, LEVELS).flatten(1).to(torch.uint8)
            codes[start : start + ROWS] = whole[:, ::2] | whole[:, 1::2] << 4
            groups[:, start : start + ROWS] = torch.stack([scale, middle], -1).transpose(0, 1)
        return {"codes": codes, "groups": groups}

    def ready(self, tensors: dict[str, torch.Tensor]) -> Product:
        """See Kind; in the order that this processor's kernel reads."""
        codes, groups = tensors["codes"], tensors["groups"]
        whole = torch.stack([codes & LEVELS, codes >> 4], -1).flatten(1).int()
        packed = _torch._convert_weight_to_int4pack_for_cpu(whole, 1)  # noqa: SLF001
        return _Grouped(packed, groups, self.group)


class _Grouped:
    def __init__(self, packed: torch.Tensor, groups: torch.Tensor, group: int) -> None:
        self.memory_bytes = packed.nbytes + groups.nbytes
        self._packed = packed
        self._groups = groups
        self._group = group

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.to(torch.bfloat16).contiguous()
        mm = _torch._weight_int4pack_mm_for_cpu  # noqa: SLF001
        return mm(rows, self._packed, self._group, self._groups).to(x.dtype)
