"""Sizes as people write them."""

from __future__ import annotations

import re

from shardline.core.errors import BadInput

__all__ = ["format_bytes", "parse_bytes"]

_BINARY = {"B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_UNITS = _BINARY | {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"\s*(\d{1,20}(?:\.\d{1,20})?)\s*([KMGT]?i?B)?\s*", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """`8GiB`, `512 MB` or plain bytes, in bytes; raises BadInput for anything else or for none."""
    match = _SIZE.fullmatch(text)
    size = int(float(match[1]) * _UNITS[(match[2] or "B").upper()]) if match else 0
    if size <= 0:
        raise BadInput(f"{text!r} is no size: write 8GiB, 512MiB or a number of bytes")
    return size


def format_bytes(size_bytes: float) -> str:
    """One decimal and a binary unit: 1536 is `1.5 KiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size_bytes) < 2**10:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 2**10
    return f"{size_bytes:.1f} TiB"
