"""Time comes from a Clock that is handed in, so that a test or a simulation can own it."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Two times: one to measure with, one to write down for others."""

    def monotonic_s(self) -> float:
        """Never goes back; its zero means nothing."""
        ...

    def wall_s(self) -> float:
        """Seconds since 1970, UTC; other machines' may differ by their clock skew."""
        ...


class SystemClock:
    """This machine's clocks."""

    def monotonic_s(self) -> float:
        """See Clock."""
        return time.monotonic()

    def wall_s(self) -> float:
        """See Clock."""
        return time.time()
