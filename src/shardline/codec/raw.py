"""A tensor's own bytes behind a header: exact, and free of copies where torch allows it."""

from __future__ import annotations

import math
from typing import cast

import msgspec
import torch

from shardline.core.errors import PeerFault

__all__ = ["TensorHeader", "dtype_name", "from_bytes", "to_bytes"]

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
    """What a receiver must know before it reads the bytes; `codec` leaves room for others."""

    codec: str
    dtype: str
    shape: tuple[int, ...]


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


def from_bytes(header: TensorHeader, data: bytes | bytearray | memoryview) -> torch.Tensor:
    """The tensor of this header; raises PeerFault if header and bytes do not agree."""
    dtype = _DTYPES.get(header.dtype)
    if dtype is None or header.codec != "raw":
        raise PeerFault(f"a tensor of {header.dtype} in {header.codec} is not known here")
    if len(header.shape) > RANK_MAX or any(size < 0 for size in header.shape):
        raise PeerFault(f"a tensor of shape {header.shape} is not accepted")
    elements = math.prod(header.shape)
    if elements > ELEMENTS_MAX or elements * _ITEM_BYTES[header.dtype] != len(data):
        raise PeerFault(f"{header.dtype} {header.shape} does not have {len(data)} bytes")
    if not elements:
        return torch.empty(header.shape, dtype=dtype)
    writable = data if not memoryview(data).readonly else bytearray(data)
    return torch.frombuffer(writable, dtype=dtype).reshape(header.shape)
