"""Tensors to bytes and back."""

from shardline.codec.raw import TensorHeader, dtype_name, from_bytes, to_bytes
from shardline.codec.trees import Marker, Tree, pack, unpack

__all__ = [
    "Marker",
    "TensorHeader",
    "Tree",
    "dtype_name",
    "from_bytes",
    "pack",
    "to_bytes",
    "unpack",
]
