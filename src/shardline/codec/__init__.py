"""Tensors to bytes and back."""

from shardline.codec.int8 import BLOCK
from shardline.codec.raw import TensorHeader, dtype_name, to_bytes
from shardline.codec.trees import Marker, Reader, Tree, exactly, pack, unpack
from shardline.codec.wires import WIRES, Encoder, Meter, coarsest, encoder, from_bytes

__all__ = [
    "BLOCK",
    "WIRES",
    "Encoder",
    "Marker",
    "Meter",
    "Reader",
    "TensorHeader",
    "Tree",
    "coarsest",
    "dtype_name",
    "encoder",
    "exactly",
    "from_bytes",
    "pack",
    "to_bytes",
    "unpack",
]
