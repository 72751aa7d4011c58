"""Whether sessions are served quicker all at once than in groups: found by trying, now and then.

Groups keep all nodes of a chain at work. That brings nothing where nodes slow each other, as those
do that share a machine or its accelerator, and little where a round of few takes as long as one of
many. Nobody can know that beforehand, and everybody can measure it: by how long each session takes
from one token to the next.
"""

from __future__ import annotations

from statistics import median

__all__ = ["Trying"]

SETTLES = 3
"""Tokens of each session after a change that are not looked at."""
LOOKS = 5
"""Tokens of each that are."""
HOLDS = 250
"""Tokens of each until the other way is tried again; more notice changes later, fewer cost more."""
FOUND_MAX = 256
"""Numbers of sessions that are remembered."""
BETTER = 0.97
"""A change has to be quicker by that."""


class Trying:
    """Which way is quicker for so many sessions, of two; says `True` for all at once."""

    def __init__(self) -> None:
        self.together = False
        """The way that is gone now."""
        self.changes = 0
        """How often that was changed."""
        self.cycle_s = 0.0
        """From token to token of a session, as it was when last looked at."""
        self._sessions = 0
        self._took_s: list[float] = []
        self._usual_s: float | None = None
        """What the way took that was gone before this one, if this one is on trial."""
        self._found: dict[int, bool] = {}
        """The way that was quicker, by how many sessions there were."""

    def came(self, took_s: float, sessions: int) -> None:
        """One session of so many came again; what it took since it came before."""
        if sessions != self._sessions:
            self._now(sessions)
        self._took_s.append(took_s)
        holds = self._usual_s is None and sessions in self._found
        if len(self._took_s) < sessions * (HOLDS if holds else SETTLES + LOOKS):
            return
        found_s = self.cycle_s = median(self._took_s[-sessions * LOOKS :])
        self._took_s = []
        if self._usual_s is None:
            self._usual_s = found_s
            self._go(together=not self.together)
            return
        if found_s > BETTER * self._usual_s:
            self._go(together=not self.together)
        self._usual_s = None
        self._found[sessions] = self.together
        if len(self._found) > FOUND_MAX:
            del self._found[next(iter(self._found))]

    def _now(self, sessions: int) -> None:
        """Another number of them: what was on trial is not, and what was found for these holds."""
        before = self.together if self._usual_s is None else not self.together
        self._sessions, self._took_s, self._usual_s = sessions, [], None
        self._go(together=self._found.get(sessions, before))

    def _go(self, *, together: bool) -> None:
        self.changes += together != self.together
        self.together = together
