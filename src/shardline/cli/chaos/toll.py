"""What living through faults costs a process: open files and memory that do not come back.

Two processes are linked by one connection, or by two if both dialled at once: which of it is luck
and changes whenever one of them is replaced. So up to two established connections with each of
the others are no leak; one too many is, and so is every other file.
"""

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
SETTLE_S: Final = 5.0
"""What is open only while a dead node is dialled is no leak: how long to wait for its end."""
POLL_S: Final = 0.1
LINKS_MAX: Final = 2
"""Connections between two processes, one dialled by each."""


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
        """Look at these processes, which may be linked to each other; call it while they rest."""
        deadline_s = time.monotonic() + SETTLE_S
        fds: dict[int, int] = {}
        """The least of each: a file that is open at all looks stays open."""
        while True:
            for pid in pids:
                with contextlib.suppress(psutil.Error):
                    seen = _fds(psutil.Process(pid), LINKS_MAX * (len(pids) - 1))
                    fds[pid] = min(seen, fds.get(pid, seen))
            grown = any(self._grew(pid, count) for pid, count in fds.items())
            if not grown or time.monotonic() > deadline_s:
                break
            time.sleep(POLL_S)
        for pid, count in fds.items():
            with contextlib.suppress(psutil.Error):
                self._note(pid, count, psutil.Process(pid).memory_info().rss)

    def _grew(self, pid: int, fds: int) -> bool:
        usage = self._usages.get(pid)
        return usage is not None and usage.looks >= WARM_LOOKS and fds > usage.fds_before

    def _note(self, pid: int, fds: int, rss_bytes: int) -> None:
        usage = self._usages.setdefault(pid, _Usage())
        usage.looks += 1
        usage.fds, usage.rss_bytes = fds, rss_bytes
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


def _fds(process: psutil.Process, links_max: int) -> int:
    """Open files but for so many established connections."""
    states = [connection.status for connection in process.net_connections("tcp")]
    return process.num_fds() - min(states.count(psutil.CONN_ESTABLISHED), links_max)
