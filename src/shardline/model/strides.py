"""How a tensor lies in memory, told to where it goes: kernels differ by it in their last bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from shardline.core.errors import PeerFault

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from shardline.model.trees import Leaf

__all__ = ["aligned", "laid", "lie_of"]

ALIGNED_BYTES: Final = 64


def lie_of(tensors: Sequence[torch.Tensor]) -> tuple[tuple[int, ...], ...]:
    """How they lie in memory, which bytes do not tell; empty where all lie row by row."""
    orders = tuple(map(_order_of, tensors))
    return orders if any(orders) else ()


def laid(tensors: Sequence[torch.Tensor], lie: Leaf) -> list[torch.Tensor]:
    """The same values, lying as `lie_of` said where they came from; raises PeerFault if it cannot.

    A tensor is copied only if it has to lie otherwise than it does.
    """
    if not lie:
        return list(tensors)
    orders = cast("tuple[Any, ...]", lie) if isinstance(lie, tuple) else ()
    if len(orders) != len(tensors):
        raise PeerFault("a tree that does not say how its tensors lie")
    return [_laid(tensor, order) for tensor, order in zip(tensors, orders, strict=True)]


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """The same tensor where torch's own allocator would have put it, copied there if need be.

    One row times a matrix rounds by the matrix's address: a mapped file's is any multiple of 8.
    """
    return tensor.clone() if tensor.data_ptr() % ALIGNED_BYTES else tensor


def _order_of(tensor: torch.Tensor) -> tuple[int, ...]:
    """Its dimensions from the widest stride on; empty for row by row, and where values overlap.

    A part of a larger tensor has the order of the whole. Dimensions of size 1 count: convolutions
    look at their strides too.
    """
    strides = tensor.stride()
    if any(size > 1 and not stride for size, stride in zip(tensor.shape, strides, strict=True)):
        return ()
    rows = tuple(range(tensor.dim()))
    order = tuple(sorted(rows, key=lambda at: (-strides[at], at)))
    return () if order == rows else order


def _laid(tensor: torch.Tensor, order: Leaf) -> torch.Tensor:
    rows = list(range(tensor.dim()))
    if order == ():
        return tensor
    given = cast("tuple[int, ...]", order) if isinstance(order, tuple) else ()
    if len(given) != len(rows) or any(type(at) is not int for at in given) or sorted(given) != rows:
        raise PeerFault(f"a tensor of {len(rows)} dimensions that lie in no order of these")
    strides, step = [1] * len(rows), 1
    for at in reversed(given):
        strides[at] = step
        step *= max(1, tensor.shape[at])
    return tensor.permute(given).contiguous().as_strided(tensor.shape, strides)
