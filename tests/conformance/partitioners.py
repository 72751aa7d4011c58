"""The methods that the conformance suite of plans runs over; a new one adds its line."""

from __future__ import annotations

__all__ = ["PARTITIONERS"]

PARTITIONERS = [
    "auto",
    "exact",
    "mip",
    "search",
    "brkga",
    "scheme",
    "greedy",
    "memory",
    "petals",
]
