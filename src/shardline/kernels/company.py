"""Some numbers of rows are multiplied in company: more rows take less time."""

from __future__ import annotations

from typing import Final

__all__ = ["in_company"]

SLOW: Final = 3, 4, 5, 6
QUICK: Final = 7
"""So few rows are multiplied as so many: with less to compute the processor asks for memory in
bursts, and waits longer for all of it."""


def in_company(rows: int) -> int:
    """How many rows so many are multiplied as."""
    return QUICK if rows in SLOW else rows
