"""A tensor's own bytes behind a header: exact, and free of copies where torch allows it."""

from __future__ import annotations

import math
from typing import cast

import msgspec
import torch

from shardline.core.errors import PeerFault

__all__ = ["TensorHeader", "dtype_name", "elements_of", "from_bytes", "to_bytes", "writable"]

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32,
        torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64,
    )
}  # fmt: skip
_ITEM_BYTES = {name: dtype.itemsize for name, dtype in _DTYPES.items()}

RANK_MAX = 8
ELEMENTS_MAX = 2**32


class TensorHeader(msgspec.Struct, array_like=True, frozen=True):
    """What a receiver must know before it reads the bytes; `block` is 0 where there are none."""

    codec: str
    dtype: str
    shape: tuple[int, ...]
    block: int = 0


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.bfloat16` is `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def to_bytes(tensor: torch.Tensor) -> tuple[TensorHeader, memoryview]:
    """A header and the tensor's bytes in row-major order; raises TypeError for odd dtypes."""
    name = dtype_name(tensor.dtype)
    if name not in _DTYPES:
        raise TypeError(f"tensors of {name} cannot cross a link")
    flat = tensor.detach().contiguous().cpu().reshape(-1)
    header = TensorHeader("raw", name, tuple(tensor.shape))
    return header, memoryview(cast("bytearray", flat.view(torch.uint8).numpy()))


def elements_of(header: TensorHeader) -> int:
    """How many elements the header speaks of; raises PeerFault for a shape beyond the bounds."""
    shape = header.shape
    if len(shape) > RANK_MAX or min(shape, default=0) < 0:
        raise PeerFault(f"a tensor of shape {shape} is not accepted")
    elements = math.prod(shape)
    most = elements or math.prod(max(1, size) for size in shape)  # beside a 0 too
    if most > ELEMENTS_MAX:
        raise PeerFault(f"a tensor of shape {shape} is not accepted")
    return elements


def writable(data: bytes | bytearray | memoryview) -> bytearray | memoryview:
    """The same bytes, copied only where torch could not share them."""
    return bytearray(data) if isinstance(data, bytes) or memoryview(data).readonly else data


def from_bytes(header: TensorHeader, data: bytes | bytearray | memoryview) -> torch.Tensor:
    """The tensor of this header; raises PeerFault if header and bytes do not agree."""
    dtype = _DTYPES.get(header.dtype)
    if dtype is None or header.codec != "raw":
        raise PeerFault(f"a tensor of {header.dtype} in {header.codec} is not known here")
    elements = elements_of(header)
    if elements * _ITEM_BYTES[header.dtype] != len(data):
        raise PeerFault(f"{header.dtype} {header.shape} does not have {len(data)} bytes")
    if not elements:
        return torch.empty(header.shape, dtype=dtype)
    flat = torch.frombuffer(writable(data), dtype=dtype)
    return flat.view(*header.shape) if header.shape else flat.reshape(())
