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

    A tensor is copied only if it has to lie otherwise than it does, and once however often it is
    named: else a small message could name one so often that its copies fill the memory.
    """
    orders = cast("tuple[Any, ...]", lie) if isinstance(lie, tuple) else None
    if orders == ():
        return list(tensors)
    if orders is None or len(orders) != len(tensors):
        raise PeerFault("a tree that does not say how its tensors lie")
    once: dict[int, tuple[tuple[int, ...], torch.Tensor]] = {}
    for tensor, given in zip(tensors, orders, strict=True):
        order = _checked(tensor, given)
        if id(tensor) not in once:
            once[id(tensor)] = order, _laid(tensor, order)
        elif once[id(tensor)][0] != order:
            raise PeerFault("a tensor that lies in two orders")
    return [once[id(tensor)][1] for tensor in tensors]


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


def _checked(tensor: torch.Tensor, order: Leaf) -> tuple[int, ...]:
    """An order of its dimensions, or none; raises PeerFault for anything else."""
    rows = list(range(tensor.dim()))
    given = cast("tuple[Any, ...]", order) if isinstance(order, tuple) else None
    if given is None or any(type(at) is not int for at in given):
        given = (-1,)  # no order of anything
    if given and sorted(given) != rows:
        raise PeerFault(f"a tensor of {len(rows)} dimensions that lie in no order of these")
    return given


def _laid(tensor: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    if not order:
        return tensor
    strides, step = [1] * len(order), 1
    for at in reversed(order):
        strides[at] = step
        step *= max(1, tensor.shape[at])
    return tensor.permute(order).contiguous().as_strided(tensor.shape, strides)
