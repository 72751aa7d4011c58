"""The codecs by name: what a sender chooses from, and how a receiver reads what it was sent."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final, TypeAlias

import torch

from shardline.codec import int8, raw
from shardline.codec.raw import TensorHeader
from shardline.core.errors import BadInput, PeerFault

__all__ = ["WIRES", "Encoder", "encoder", "from_bytes"]

Encoder: TypeAlias = Callable[[torch.Tensor], tuple[TensorHeader, memoryview]]
"""A tensor's header and bytes; what its codec cannot carry is written raw, never refused."""

_DECODERS = {"raw": raw.from_bytes, "int8": int8.from_bytes}
WIRES: Final = tuple(_DECODERS)
"""Names of the codecs that are read and written here."""


def encoder(wire: str, *, block: int = int8.BLOCK) -> Encoder:
    """What writes tensors in this codec; `block`, int8's knob, is the most elements of a scale.

    Raises BadInput for a codec or a block size that is not to be had.
    """
    if wire == "raw":
        return raw.to_bytes
    if wire == "int8":
        return functools.partial(_by_rows, block=int8.check_block(block))
    raise BadInput(f"tensors cross as {' or '.join(WIRES)}, not {wire}")


def from_bytes(header: TensorHeader, data: bytes | bytearray | memoryview) -> torch.Tensor:
    """The tensor of this header; raises PeerFault if header and bytes do not agree."""
    decode = _DECODERS.get(header.codec)
    if decode is None:
        raise PeerFault(f"a tensor in {header.codec} is not known here")
    return decode(header, data)


def _by_rows(tensor: torch.Tensor, block: int) -> tuple[TensorHeader, memoryview]:
    width = tensor.shape[-1] if tensor.dim() else 0
    return int8.to_bytes(tensor, int8.block_for(width, block))
