"""A network in numbers: how long a message takes between two places, and who can reach whom.

Places lie in regions on a plane; a link's time is the distance, both places' own access time and
some jitter. Loss costs time, not messages: links are TCP, which sends again after a pause that
doubles. A cut parts the places into two sides; what is under way between them is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from shardline.simulation.agenda import TICK_S

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Network"]

REGIONS = 6
PLANE_MS = 60.0
"""One way across the plane's side."""
ACCESS_MS = 12.0
"""The most that a place's own line adds, one way."""
JITTER_MS = 3.0
AGAIN_MS = 200.0
"""The first wait before a lost segment is sent again."""


class Network:
    """`places` machines, by number."""

    def __init__(self, places: int, luck: np.random.Generator, *, loss: float) -> None:
        self._luck = luck
        self._loss = loss
        regions = luck.integers(0, REGIONS, places)
        centres = luck.uniform(0, PLANE_MS, (REGIONS, 2))
        self._spots = centres[regions] + luck.normal(0, 2.0, (places, 2))
        self._access_ms = luck.uniform(0.5, ACCESS_MS, places)
        self._side = np.zeros(places, dtype=np.int8)
        self.whole = True
        """Whether there is no cut now."""

    def one_way_ms(self, source: int, targets: NDArray[np.int64]) -> NDArray[np.float64]:
        """Without jitter and loss, to each of these places."""
        distance = np.hypot(*(self._spots[targets] - self._spots[source]).T)
        return np.asarray(distance + self._access_ms[source] + self._access_ms[targets])

    def round_trip_ms(self, source: int, target: int) -> float:
        """What a ping would measure."""
        return 2 * float(self.one_way_ms(source, np.array([target]))[0])

    def trip_ticks(self, source: int, targets: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many ticks a message takes to each of these places this time, at least one."""
        trips_ms = self.one_way_ms(source, targets)
        trips_ms += self._luck.exponential(JITTER_MS, len(targets))
        if self._loss:
            losses = self._luck.geometric(1 - self._loss, len(targets)) - 1
            trips_ms += AGAIN_MS * (2.0**losses - 1)
        return np.ceil(trips_ms / 1e3 / TICK_S).astype(np.int64)

    def cut(self, away: NDArray[np.int64]) -> None:
        """Part these places from all others."""
        self._side[away] = 1
        self.whole = False

    def heal(self) -> None:
        """Let everybody reach everybody."""
        self._side[:] = 0
        self.whole = True

    def joined(self, a: int, b: int) -> bool:
        """Whether a message from one gets to the other."""
        return bool(self._side[a] == self._side[b])

    def beyond(self, place: int) -> NDArray[np.int64]:
        """The places on the other side of a cut."""
        return np.flatnonzero(self._side != self._side[place])
