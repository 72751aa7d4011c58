"""Intervals and tests, each by its name: what a difference between two runs is worth.

All intervals are at 95%. Tests are paired, because both runs answered the same questions.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["bonett_price", "bootstrap", "mcnemar", "wilson"]

Z_95 = 1.959964
DRAWS = 2_000


def wilson(right: int, count: int) -> tuple[float, float]:
    """Wilson's interval of a share (1927)."""
    share, z2 = right / count, Z_95 * Z_95
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z_95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return middle - half, middle + half


def mcnemar(gained: int, lost: int) -> float:
    """McNemar's exact test, two-sided: the chance of answers that change so unevenly, by luck.

    Of the answers that changed, `gained` became right and `lost` became wrong.
    """
    changed = gained + lost
    tail = sum(math.comb(changed, fewer) for fewer in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**changed)


def bonett_price(gained: int, lost: int, count: int) -> tuple[float, float]:
    """Bonett and Price's interval of the change of a share, paired (2012)."""
    up, down = (gained + 1) / (count + 2), (lost + 1) / (count + 2)
    half = Z_95 * math.sqrt((up + down - (up - down) ** 2) / (count + 2))
    return up - down - half, up - down + half


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], NDArray[np.float64]], count: int
) -> NDArray[np.float64]:
    """A statistic of `count` things, sorted, over seeded draws of as many with replacement.

    `statistic` is given indices (draws, count) and gives a number a draw.
    """
    drawn = np.random.default_rng(0).integers(0, count, (DRAWS, count))
    return np.sort(statistic(drawn))
