"""How a tensor lies in memory, told to where it goes: kernels differ by it in their last bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

__all__ = ["aligned", "hint", "laid", "order_of"]

ALIGNED_BYTES: Final = 64


def hint(size: Any) -> int:  # noqa: ANN401 - an int, or torch's symbol for one
    """A size in the example; 1 where it depends on values."""
    if isinstance(size, int):
        return size
    found = getattr(size.node, "hint", None)
    return 1 if found is None else int(found)


def order_of(tensor: torch.Tensor) -> list[int]:
    """Its dimensions from the widest stride on, unless they lie row by row or overlap."""
    sizes = [hint(size) for size in tensor.shape]
    strides = [hint(stride) for stride in tensor.stride()]
    order = sorted(range(len(sizes)), key=lambda at: (-strides[at], at))
    wide = [at for at in order if sizes[at] > 1]
    expected = 1
    for at in reversed(wide):
        if strides[at] != expected:
            return []
        expected *= sizes[at]
    return [] if wide == sorted(wide) else order


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """The same tensor where torch's own allocator would have put it, copied there if need be.

    One row times a matrix rounds by the matrix's address: a mapped file's is any multiple of 8.
    """
    return tensor.clone() if tensor.data_ptr() % ALIGNED_BYTES else tensor


def laid(tensor: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    """The same values with the strides that they had where they were made, by `order_of`."""
    if not order or sorted(order) != list(range(tensor.dim())):
        return aligned(tensor)
    back = [order.index(dimension) for dimension in range(tensor.dim())]
    return aligned(tensor.permute(*order).contiguous()).permute(*back)
