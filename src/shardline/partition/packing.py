"""The most that can be packed into one unit of each of some things: max sum(x), A x <= 1, x >= 0.

A linear programme whose columns are found one after another, hundreds of times with a few dozen
rows. So it keeps its basis and the inverse of that (the revised simplex method): solving anew after
some columns more takes a tenth of what it takes HiGHS from nothing, and that is most of the time of
a plan with replicas. Whoever uses it needs no exact answer: what is packed is checked against the
units, and prices are a bound whatever they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

__all__ = ["Packing"]

GAIN = 1e-10
"""Of one unit of a column; less is rounding."""
PIVOT = 1e-9
REFRESHED = 64
"""Changes of the basis after which its inverse is made anew, against rounding."""
STEPS = 20
"""Of such changes in one solving at most, times the rows."""


class Packing:
    """Columns are added and dropped; `solve` says how much of each, and what each unit is worth."""

    def __init__(self, rows: int) -> None:
        self.table: Floats = np.zeros((rows, 0))
        self._inverse: Floats = np.eye(rows)
        self._packed: Floats = np.ones(rows)
        self._basis: Ints = -1 - np.arange(rows)
        """A column each, or -1 - row for what is left of the row."""

    def add(self, columns: Floats) -> None:
        """More columns, [row, column], each with something above 0 and nothing below."""
        self.table = np.concatenate([self.table, columns], axis=1)

    def drop(self, kept: Ints) -> None:
        """Keep only these columns, in this order; those of the basis must be among them."""
        place = np.full(self.table.shape[1], -1, dtype=np.int64)
        place[kept] = np.arange(len(kept))
        self.table = self.table[:, kept]
        inside = self._basis >= 0
        self._basis[inside] = place[self._basis[inside]]

    def packed(self) -> Ints:
        """The columns of the basis: all that are packed are among them."""
        return self._basis[self._basis >= 0]

    def solve(self) -> tuple[Floats, Floats]:
        """How much of each column, and each row's price, which sum up to the whole."""
        rows = len(self._basis)
        worth = (self._basis >= 0).astype(np.float64)
        for step in range(STEPS * rows):
            prices = worth @ self._inverse
            gains = np.concatenate([1.0 - prices @ self.table, -prices])
            entering = int(gains.argmax())
            if gains[entering] <= GAIN:
                break
            self._enter(entering, worth)
            if step % REFRESHED == REFRESHED - 1:
                self._refresh()
        found = np.zeros(self.table.shape[1])
        inside = self._basis >= 0
        found[self._basis[inside]] = np.maximum(self._packed[inside], 0.0)
        return found, np.maximum(worth @ self._inverse, 0.0)

    def _enter(self, entering: int, worth: Floats) -> None:
        columns = self.table.shape[1]
        row = entering - columns
        way = self._inverse[:, row] if row >= 0 else self._inverse @ self.table[:, entering]
        able = way > PIVOT * np.abs(way).max()
        steps = np.where(able, np.maximum(self._packed, 0.0) / np.where(able, way, 1.0), np.inf)
        leaving = int(steps.argmin())
        self._packed = self._packed - steps[leaving] * way
        self._packed[leaving] = steps[leaving]
        pivot = self._inverse[leaving] / way[leaving]
        self._inverse = self._inverse - way[:, None] * pivot
        self._inverse[leaving] = pivot
        self._basis[leaving] = -1 - row if row >= 0 else entering
        worth[leaving] = 0.0 if row >= 0 else 1.0

    def _refresh(self) -> None:
        rows = len(self._basis)
        units = np.eye(rows)
        matrix = np.stack(
            [self.table[:, at] if at >= 0 else units[-1 - at] for at in self._basis.tolist()],
            axis=1,
        )
        self._inverse = np.asarray(np.linalg.inv(matrix), dtype=np.float64)
        self._packed = self._inverse @ np.ones(rows)
