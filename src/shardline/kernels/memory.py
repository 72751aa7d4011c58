"""Memory for weights that stay: in large pages, where the system gives them.

A product reads each weight once, page after page, and finds where each page is. Pages of 2 MiB are
512 times fewer, and the processor's reading ahead does not end at each.
"""

from __future__ import annotations

import contextlib
import mmap
from typing import Final

import torch

__all__ = ["lasting"]

PAGE: Final = 2 << 20
"""Bytes of a large page."""
LINE: Final = 64
"""Bytes of a line of the cache."""


def lasting(tensor: torch.Tensor) -> torch.Tensor:
    """The same values one after the other, in memory of their own that begins with a line."""
    if tensor.nbytes < PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        copy = tensor.clone(memory_format=torch.contiguous_format)
    else:
        copy = _in_large_pages(tensor.nbytes).view(tensor.dtype).view(tensor.shape).copy_(tensor)
    if copy.data_ptr() % LINE:
        raise ValueError("torch gave memory that begins within a line of the cache")
    return copy


def _in_large_pages(memory_bytes: int) -> torch.Tensor:
    """So many bytes, as whole large pages as far as they fill these; the rest in small ones."""
    held = mmap.mmap(-1, memory_bytes + PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = torch.frombuffer(held, dtype=torch.uint8)
    first = -whole.data_ptr() % PAGE
    with contextlib.suppress(OSError):  # a system without them: small pages do
        held.madvise(mmap.MADV_HUGEPAGE, first, memory_bytes // PAGE * PAGE)
    return whole[first : first + memory_bytes]
