"""The codecs by name: what a sender chooses from, and how a receiver reads what it was sent."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import torch

from shardline.codec import int8, raw
from shardline.codec.raw import TensorHeader
from shardline.core.errors import BadInput, PeerFault

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["WIRES", "Encoder", "Meter", "coarsest", "encoder", "from_bytes"]

Encoder: TypeAlias = Callable[[torch.Tensor], tuple[TensorHeader, memoryview]]
"""A tensor's header and bytes; what its codec cannot carry is written raw, never refused."""

_DECODERS = {"raw": raw.from_bytes, "int8": int8.from_bytes}
WIRES: Final = tuple(_DECODERS)
"""Names of the codecs that are read and written here, the exact one first, the coarsest last."""


def coarsest(reads: Collection[str], allowed: str, *also: str) -> str:
    """The codec for one link: the coarsest that the receiver reads and all of these allow.

    Each of `allowed` is the coarsest that somebody allows. Names that are not known here, as a
    later version may send, allow nothing but raw, and everybody reads that.
    """
    ranks = [WIRES.index(wire) if wire in WIRES else 0 for wire in (allowed, *also)]
    within = WIRES[: 1 + min(ranks)]
    return next((wire for wire in reversed(within) if wire in reads), WIRES[0])


@dataclass(slots=True)
class Meter:
    """An encoder that notes what became of the tensors it was given."""

    encode: Encoder
    wire: str = WIRES[0]
    """The codec of the last one."""
    saved_bytes: int = 0
    """What all of them would take more if they were written raw."""

    def __call__(self, tensor: torch.Tensor) -> tuple[TensorHeader, memoryview]:
        """See Encoder."""
        header, data = self.encode(tensor)
        self.wire = header.codec
        self.saved_bytes += tensor.nbytes - data.nbytes
        return header, data


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
