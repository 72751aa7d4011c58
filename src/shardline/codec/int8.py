"""A tensor in 8 bits: dynamic blockwise quantisation (PAPER section 5).

The flat tensor is cut into blocks; each block is divided by its largest magnitude, and each value
becomes the nearest of 256 codes of the signed dynamic map. The paper gives no formula of its own:
this is the map of Dettmers et al., "8-bit Optimizers via Block-wise Quantization" (2110.02861), as
bitsandbytes builds it. Bytes: a float32 scale for each block, little-endian, then a code for each
element; `TensorHeader.block` says how many elements a block has (the last may have fewer).

To be fast, the nearest code is looked up by the quotient as float16. So where a quotient is within
its rounding (2^-11 of it, or 3e-8) of the middle between two codes, either may be taken.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Final, cast

import torch

from shardline.codec import raw
from shardline.codec.raw import TensorHeader, dtype_name, elements_of, writable
from shardline.core.errors import BadInput, PeerFault

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "BLOCK", "BLOCK_MAX", "BLOCK_MIN", "block_for", "check_block", "from_bytes", "to_bytes",
]  # fmt: skip

BLOCK: Final = 4096
"""Elements that share a scale, as in bitsandbytes. Fewer confine outliers; scales are 4 bytes."""
BLOCK_MIN: Final = 64
BLOCK_MAX: Final = 65_536

PIECE: Final = 2**18
"""Elements quantised at a time, so that what lies between stays in the processor's cache."""

_DECADES = 7
_SCALE_BYTES = 4
_DTYPES = {dtype_name(one): one for one in (torch.float32, torch.bfloat16, torch.float16)}
_MAGNITUDE_BITS = {2: (torch.int16, 0x7FFF), 4: (torch.int32, 0x7FFF_FFFF)}


def check_block(block: int) -> int:
    """The same number; raises BadInput if no block may have so many elements."""
    if not BLOCK_MIN <= block <= BLOCK_MAX:
        raise BadInput(f"a block has {BLOCK_MIN} to {BLOCK_MAX} elements, not {block}")
    return block


@functools.lru_cache(maxsize=256)
def block_for(width: int, at_most: int) -> int:
    """The largest block that divides rows of this width; `at_most` itself where none does.

    With blocks that keep to rows, what a token becomes does not depend on the tokens beside it:
    the same in a prefill, in its chunks, in a batch and when it is sent again.
    """
    parts = range(max(1, -(-width // at_most)), width // BLOCK_MIN + 1)
    return next((width // some for some in parts if width % some == 0), at_most)


@functools.cache
def dynamic_map() -> torch.Tensor:
    """The 256 values in [-1, 1] that a code may stand for, rising; code 127 is 0.

    Decade i of seven has 2^i values of each sign, the middles of as many equal parts of
    [10^(i-7), 10^(i-6)]: three digits near the largest, one a million times below. Then 0 and 1.
    """
    positive = [
        10.0 ** (decade + 1 - _DECADES) * (0.1 + 0.9 * (part + 0.5) / 2**decade)
        for decade in range(_DECADES)
        for part in range(2**decade)
    ]
    values = [-value for value in reversed(positive)] + [0.0, *positive, 1.0]
    return torch.tensor(values, dtype=torch.float32)


@functools.cache
def _nearest() -> torch.Tensor:
    """The code of each of the 65,536 float16s by bit pattern, as uint8.

    NaN, the quotients of a block of zeros, is 0.
    """
    values = dynamic_map().double()
    quotients = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.float16)
    middles = (values[1:] + values[:-1]) / 2
    return torch.bucketize(quotients.double().nan_to_num(0.0), middles).to(torch.uint8)


def _parts(packed: torch.Tensor, blocks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The bytes of so many scales, as float32, and those of the codes; nothing is copied."""
    return packed[: _SCALE_BYTES * blocks].view(torch.float32), packed[_SCALE_BYTES * blocks :]


def _pieces(elements: int, block: int) -> Iterator[tuple[slice, slice]]:
    """Where to find the scales and the elements of some blocks at a time; a short one is alone."""
    whole, step = elements // block, max(1, PIECE // block)
    for first in range(0, whole, step):
        last = min(first + step, whole)
        yield slice(first, last), slice(first * block, last * block)
    if elements % block:
        yield slice(whole, whole + 1), slice(whole * block, elements)


def _quantise(values: torch.Tensor, scales: torch.Tensor, codes: torch.Tensor) -> None:
    """Fill (blocks,) scales and (elements,) codes of (elements,) values."""
    rows = values.view(len(scales), -1)
    integer, magnitude = _MAGNITUDE_BITS[rows.itemsize]
    scales.copy_((rows.view(integer) & magnitude).amax(1).view(rows.dtype))
    keys = (rows / scales[:, None]).half().view(torch.uint16).int()
    torch.index_select(_nearest(), 0, keys.view(-1), out=codes)


def to_bytes(tensor: torch.Tensor, block: int = BLOCK) -> tuple[TensorHeader, memoryview]:
    """The tensor in 8 bits, as header and bytes; the header says `raw` where that cannot be.

    Only float32, bfloat16 and float16 are quantised. A tensor with NaN or infinity crosses as it
    is, so that whoever looks for them finds them. Raises BadInput for a block out of bounds and
    TypeError for odd dtypes.
    """
    name = dtype_name(tensor.dtype)
    if name not in _DTYPES:
        return raw.to_bytes(tensor)
    flat = tensor.detach().contiguous().cpu().reshape(-1)
    blocks = -(-flat.numel() // check_block(block))
    packed = torch.empty(_SCALE_BYTES * blocks + flat.numel(), dtype=torch.uint8)
    scales, codes = _parts(packed, blocks)
    for some, there in _pieces(flat.numel(), block):
        _quantise(flat[there], scales[some], codes[there])
    if blocks and not math.isfinite(scales.max()):
        return raw.to_bytes(tensor)
    header = TensorHeader("int8", name, tuple(tensor.shape), block)
    return header, memoryview(cast("bytearray", packed.numpy()))


def from_bytes(header: TensorHeader, data: bytes | bytearray | memoryview) -> torch.Tensor:
    """The tensor of this header; raises PeerFault if header and bytes do not agree.

    Always finite: a scale that is negative, no number, or more than the dtype holds is refused.
    """
    dtype = _DTYPES.get(header.dtype)
    if dtype is None or header.codec != "int8" or not BLOCK_MIN <= header.block <= BLOCK_MAX:
        what = f"{header.dtype} in {header.codec} with blocks of {header.block}"
        raise PeerFault(f"a tensor of {what} is not known here")
    elements = elements_of(header)
    blocks = -(-elements // header.block)
    if _SCALE_BYTES * blocks + elements != len(data):
        raise PeerFault(f"{header.shape} in int8 does not have {len(data)} bytes")
    tensor = torch.empty(header.shape, dtype=dtype)
    if not elements:
        return tensor
    scales, codes = _parts(torch.frombuffer(writable(data), dtype=torch.uint8), blocks)
    least, most = torch.aminmax(scales)
    if not (least >= 0 and most <= torch.finfo(dtype).max):
        raise PeerFault("a tensor in int8 whose scales are no magnitudes")
    flat = tensor.view(-1)
    for some, there in _pieces(elements, header.block):
        values = dynamic_map().index_select(0, codes[there].int()).view(len(scales[some]), -1)
        flat[there] = values.mul_(scales[some, None]).view(-1)
    return tensor
