"""What living through faults costs a process: open files and memory that do not come back."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psutil

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["Toll"]

WARM_LOOKS: Final = 2
"""Looks at a process until it has done everything once; growth counts from there."""
SETTLE_S: Final = 3.0
"""Connections that are just being replaced are no leak: how long to wait for them."""
POLL_S: Final = 0.1


@dataclass(slots=True)
class _Usage:
    looks: int = 0
    fds_before: int = 0
    fds: int = 0
    rss_bytes_before: int = 0
    rss_bytes: int = 0


class Toll:
    """The worst of all processes that were looked at, those that are gone included.

    A process that is started in another's place begins at zero.
    """

    def __init__(self) -> None:
        self._usages: dict[int, _Usage] = {}

    def look(self, pids: Collection[int]) -> None:
        """Look at these processes; call it while they are at rest."""
        deadline_s = time.monotonic() + SETTLE_S
        while any(self._grew(pid) for pid in pids) and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
        for pid in pids:
            with contextlib.suppress(psutil.Error):
                self._note(pid, psutil.Process(pid))

    def _grew(self, pid: int) -> bool:
        usage = self._usages.get(pid)
        if usage is None or usage.looks < WARM_LOOKS:
            return False
        with contextlib.suppress(psutil.Error):
            return psutil.Process(pid).num_fds() > usage.fds_before
        return False

    def _note(self, pid: int, process: psutil.Process) -> None:
        usage = self._usages.setdefault(pid, _Usage())
        usage.looks += 1
        usage.fds, usage.rss_bytes = process.num_fds(), process.memory_info().rss
        if usage.looks <= WARM_LOOKS:
            usage.fds_before, usage.rss_bytes_before = usage.fds, usage.rss_bytes

    @property
    def leaked_fds(self) -> int:
        """The most open files that one process has more than when it was warm."""
        return max((usage.fds - usage.fds_before for usage in self._usages.values()), default=0)

    @property
    def rss_growth_bytes(self) -> int:
        """The most memory that one process has more than when it was warm."""
        grown = (usage.rss_bytes - usage.rss_bytes_before for usage in self._usages.values())
        return max(grown, default=0)
