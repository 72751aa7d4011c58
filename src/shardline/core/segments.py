"""What a message carries besides itself: byte strings that only the codec can read."""

from __future__ import annotations

__all__ = ["Segment"]

Segment = bytes | bytearray | memoryview
