"""Links that nobody measured, from those that somebody did.

Round trips: network coordinates with heights (Vivaldi, Dabek et al. 2004): a node is a point of the
net plus its access line, a round trip is the way between the points plus both lines. Vivaldi moves
springs one by one as packets arrive; we hold all measurements at once, so we start from classical
scaling of the shortest known detours and descend on all of them. Low-rank completion was tried and
loses (docs/decisions/0012).

Rates: access lines bind, so a link carries the lesser of one upload and one download (ours).

Pure, without luck: the same numbers in give the same numbers out. Another order of the nodes gives
nearly the same estimates in that order (1% or so apart: a descent magnifies rounding).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["classical_scaling", "detours_ms", "fit_rates", "fit_rtt"]

DIMENSIONS: Final = 3
"""Two are as good from 50 nodes on, three are better below."""
STEPS: Final = 250
RATE: Final = 0.05
"""First step, as a share of a typical round trip; it falls to nothing."""
OUTLIER: Final = 0.3
"""A residual beyond this (of a logarithm) pulls no harder: one broken link bends no map."""
RTT_FLOOR_MS: Final = 1e-3
_SLOW, _FAST = 0.9, 0.99


def detours_ms(measured_ms: Floats) -> Floats:
    """The shortest way over measured links; NaN is not measured, infinity is no way at all."""
    ways = np.where(np.isnan(measured_ms), np.inf, measured_ms)
    np.fill_diagonal(ways, 0.0)
    for k in range(len(ways)):
        np.minimum(ways, ways[:, k, None] + ways[None, k, :], out=ways)
    return ways


def classical_scaling(distances: Floats, dimensions: int) -> Floats:
    """Points whose distances are these, as nearly as so few dimensions allow (Torgerson)."""
    n = len(distances)
    middle = np.eye(n) - 1.0 / n
    values, vectors = np.linalg.eigh(-0.5 * middle @ distances**2 @ middle)
    kept = min(dimensions, n)
    points = vectors[:, ::-1][:, :kept] * np.sqrt(np.maximum(values[::-1][:kept], 0.0))
    # An eigenvector's sign is luck: the point farthest out is positive.
    outermost = points[np.abs(points).argmax(axis=0), np.arange(kept)]
    points = points * np.where(outermost < 0.0, -1.0, 1.0)
    return np.pad(points, ((0, 0), (0, dimensions - kept)))


def _descend(start: Floats, slope: Callable[[Floats], Floats], reach: Floats | float) -> Floats:
    """Adam over all measurements at once, its steps falling to nothing."""
    here = start
    mean = np.zeros_like(start)
    square = np.zeros_like(start)
    for step in range(1, STEPS + 1):
        down = slope(here)
        mean = _SLOW * mean + (1 - _SLOW) * down
        square = _FAST * square + (1 - _FAST) * down**2
        move = (mean / (1 - _SLOW**step)) / (np.sqrt(square / (1 - _FAST**step)) + 1e-9)
        here = here - reach * (1.02 - step / STEPS) * move
    return here


def _pull(residuals: Floats) -> Floats:
    return np.clip(residuals, -OUTLIER, OUTLIER)


def fit_rtt(measured_ms: Floats) -> Floats:
    """All round trips in ms, from a symmetric matrix with NaN where nothing was measured.

    Between nodes that no chain of measurements joins the estimate means nothing.
    """
    n = len(measured_ms)
    rows, columns = np.nonzero(np.triu(~np.isnan(measured_ms), 1))
    if not len(rows):
        return np.full((n, n), np.nan)
    seen_ms = np.maximum(measured_ms[rows, columns], RTT_FLOOR_MS)
    typical_ms = float(np.median(seen_ms))
    ways = detours_ms(measured_ms)
    ways = np.minimum(ways, ways[np.isfinite(ways)].max())
    nearest_ms = np.full(n, np.inf)
    np.minimum.at(nearest_ms, rows, seen_ms)
    np.minimum.at(nearest_ms, columns, seen_ms)
    heights = np.log(np.where(np.isfinite(nearest_ms), nearest_ms, typical_ms) / 2)

    def slope(state: Floats) -> Floats:
        points, lines = state[:, :DIMENSIONS], np.exp(state[:, DIMENSIONS])
        apart = points[rows] - points[columns]
        length = np.sqrt((apart**2).sum(axis=1) + 1e-6 * typical_ms**2)
        whole = length + lines[rows] + lines[columns]
        pull = _pull(np.log(whole / seen_ms)) / whole
        push = (pull / length)[:, None] * apart
        ends = np.bincount(rows, pull, n) + np.bincount(columns, pull, n)
        sides = [
            np.bincount(rows, push[:, k], n) - np.bincount(columns, push[:, k], n)
            for k in range(DIMENSIONS)
        ]
        return np.column_stack([*sides, ends * lines]).astype(np.float64)

    start = np.column_stack([0.8 * classical_scaling(ways, DIMENSIONS), heights])
    reach = np.array([RATE * typical_ms] * DIMENSIONS + [2 * RATE])
    state = _descend(start, slope, reach)
    points, lines = state[:, :DIMENSIONS], np.exp(state[:, DIMENSIONS])
    apart = np.linalg.norm(points[:, None, :] - points[None, :, :], axis=-1)
    found = np.maximum(apart + lines[:, None] + lines[None, :], RTT_FLOOR_MS)
    np.fill_diagonal(found, 0.0)
    return found


def fit_rates(measured: Floats) -> Floats:
    """All rates in bytes/s, from row to column, from a matrix with NaN where nothing was measured.

    NaN stays where neither the sender's upload nor the receiver's download was seen at all.
    """
    n = len(measured)
    rows, columns = np.nonzero(~np.isnan(measured))
    if not len(rows):
        return np.full((n, n), np.nan)
    seen = np.log(measured[rows, columns])
    best = np.full((n, 2), -np.inf)
    np.maximum.at(best[:, 0], rows, seen)
    np.maximum.at(best[:, 1], columns, seen)
    # A line that was never seen binds nothing, unless neither end was.
    start = np.where(np.isfinite(best), best, seen.max() + 1.0)

    def slope(lines: Floats) -> Floats:
        up, down = lines[rows, 0], lines[columns, 1]
        pull = _pull(np.minimum(up, down) - seen)
        upper = np.bincount(rows, np.where(up <= down, pull, 0.0), n)
        lower = np.bincount(columns, np.where(up > down, pull, 0.0), n)
        return np.column_stack([upper, lower]).astype(np.float64)

    lines = _descend(start, slope, RATE)
    found = np.exp(np.minimum(lines[:, None, 0], lines[None, :, 1]))
    unseen = ~np.isfinite(best)
    return np.where(unseen[:, None, 0] & unseen[None, :, 1], np.nan, found)
