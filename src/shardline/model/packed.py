"""Linear layers in the order in which the processor's kernel reads them: the same bits, sooner.

Torch multiplies by bfloat16 weights through oneDNN, which reads them as they lie in the checkpoint.
Reordered once, at load, they are read up to twice as fast (decision 0026). Nothing else changes:
the kernel sums in the same order. A row alone is the exception: oneDNN has another kernel for it,
which is slower and rounds otherwise, so it is multiplied as several. Then a row's result is the
same in any company.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["PackedLinear", "can_pack", "pack", "pack_head"]

ROWS: Final = 16
"""How many rows oneDNN is told to expect; it reads the same order for any other number."""
COMPANY: Final = 4
"""Rows that one or two are multiplied as: quicker than as they are, and than more."""
_ops: Any = torch.ops.mkldnn


class PackedLinear(nn.Module):
    """In the place of an `nn.Linear` in bfloat16 on the CPU; has no gradient."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        bias = cast("nn.Parameter | None", linear.bias)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        weight = linear.weight.detach()
        self._packed: torch.Tensor = _ops._reorder_linear_weight(weight, ROWS)  # noqa: SLF001

    @property
    def memory_bytes(self) -> int:
        """Of the weight, without the bias."""
        return self.in_features * self.out_features * torch.bfloat16.itemsize

    @property
    def weight(self) -> torch.Tensor:
        """The weight as it was, copied: for models that look at a layer's weight."""
        return self._packed.to_dense()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the layer that it stands for, of (…, in_features)."""
        rows = x.numel() // self.in_features
        if not 0 < rows <= COMPANY // 2:
            return self._product(x)
        several = self._product(torch.cat([x.reshape(rows, -1)] * (COMPANY // rows)))
        return several[:rows].view(*x.shape[:-1], self.out_features)

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        return _ops._linear_pointwise(x, self._packed, self.bias, "none", [], "")  # noqa: SLF001


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether layers of this dtype are multiplied through oneDNN here."""
    bf16 = dtype == torch.bfloat16 and device.type == "cpu"
    return bf16 and bool(_ops._is_mkldnn_bf16_supported())  # noqa: SLF001


def pack(block: nn.Module) -> None:
    """Pack, in place, what gains by it; the rest is copied, so that no file stays mapped."""
    for parent in list(block.modules()):
        for name, child in cast("Iterable[tuple[str, nn.Module]]", list(parent.named_children())):
            if _gains(child):
                setattr(parent, name, PackedLinear(cast("nn.Linear", child)))
    for parameter in block.parameters():
        parameter.data = parameter.data.clone()


def pack_head(model: nn.Module) -> None:
    """Pack a model's head, unless it is its embeddings too."""
    typeless: Any = model
    head, table = typeless.get_output_embeddings(), typeless.get_input_embeddings()
    if head is None or not _gains(head) or head.weight is getattr(table, "weight", None):
        return
    typeless.set_output_embeddings(PackedLinear(head))


def _gains(module: nn.Module) -> bool:
    return type(module) is nn.Linear and module.weight.dtype == torch.bfloat16
