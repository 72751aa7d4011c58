"""Linear layers in the order in which the processor's kernel reads them: the same bits, sooner.

Torch multiplies by bfloat16 weights through oneDNN, which reads them as they lie in the checkpoint.
Reordered once, at load, they are read two to four times as fast (decision 0026), by a kernel of our
own where the processor has what that needs (`shardline.kernels`), by oneDNN's where not. Nothing
else changes: both sum in the same order. A row alone is the exception: oneDNN has another kernel
for it, which is slower and rounds otherwise, so it is multiplied as several there. Then a row's
result is the same in any company, and on any node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch import nn

from shardline.kernels import Panels
from shardline.model.fusing import fuse

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["PackedLinear", "can_pack", "pack", "pack_head", "products"]

ROWS: Final = 16
"""How many rows oneDNN is told to expect; it reads the same order for any other number."""
COMPANY: Final = 4
"""Rows that one or two are multiplied as: quicker than as they are, and than more."""
ANY_PANEL: Final = 32, 32
"""A shape that our kernel takes if it takes any."""
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
        self._product: Panels | _Blocked = (
            Panels(weight, self.bias) if Panels.takes(weight) else _Blocked(weight, self.bias)
        )

    @property
    def memory_bytes(self) -> int:
        """Of the weight, without the bias."""
        return self.in_features * self.out_features * torch.bfloat16.itemsize

    @property
    def weight(self) -> torch.Tensor:
        """The weight as it was, copied: for models that look at a layer's weight."""
        return self._product.weight()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the layer that it stands for, of (…, in_features)."""
        return self._product(x)


class _Blocked:
    """A weight in oneDNN's own order."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._outputs, self._inputs = weight.shape
        self._bias = bias
        self._blocks: torch.Tensor = _ops._reorder_linear_weight(weight, ROWS)  # noqa: SLF001

    def weight(self) -> torch.Tensor:
        """As it was."""
        return self._blocks.to_dense()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(…, inputs) -> (…, outputs)."""
        rows = x.numel() // self._inputs
        if not 0 < rows <= COMPANY // 2:
            return self._times(x)
        several = self._times(torch.cat([x.reshape(rows, -1)] * (COMPANY // rows)))
        return several[:rows].view(*x.shape[:-1], self._outputs)

    def _times(self, x: torch.Tensor) -> torch.Tensor:
        return _ops._linear_pointwise(x, self._blocks, self._bias, "none", [], "")  # noqa: SLF001


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether layers of this dtype are multiplied through oneDNN here."""
    bf16 = dtype == torch.bfloat16 and device.type == "cpu"
    return bf16 and bool(_ops._is_mkldnn_bf16_supported())  # noqa: SLF001


def products(dtype: torch.dtype, device: torch.device) -> str:
    """What runs blocks of this dtype here, in a word: another has another speed."""
    if not can_pack(dtype, device):
        return "torch"
    ours = Panels.takes(torch.zeros(ANY_PANEL, dtype=dtype, device=device))
    return "panels, tapes" if ours else "blocks, tapes"


def pack(block: nn.Module) -> None:
    """Pack and fuse, in place, what gains by it; the rest is copied: no file stays mapped."""
    for parent in list(block.modules()):
        for name, child in cast("Iterable[tuple[str, nn.Module]]", list(parent.named_children())):
            if _gains(child):
                setattr(parent, name, PackedLinear(cast("nn.Linear", child)))
    for parameter in block.parameters():
        parameter.data = parameter.data.clone()
    fuse(block)


def pack_head(model: nn.Module) -> None:
    """Pack a model's head, unless it is its embeddings too."""
    typeless: Any = model
    head, table = typeless.get_output_embeddings(), typeless.get_input_embeddings()
    if head is None or not _gains(head) or head.weight is getattr(table, "weight", None):
        return
    typeless.set_output_embeddings(PackedLinear(head))


def _gains(module: nn.Module) -> bool:
    return type(module) is nn.Linear and module.weight.dtype == torch.bfloat16
