"""Links between listening nodes that broke are dialled again (decision 0002).

Zenoh 1.10 retries configured addresses only. A peer that it heard of is dialled when it is heard
of, so a link that breaks while both ends stay linked to others would stay broken. What makes it
heard of again is a session beside ours: it dials the lost peer and us, and gossips each to the
other; then the two dial each other, and the session beside is closed. It carries nothing else.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast

import zenoh

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardline.wire.transports.zenoh_types import Closes, KnowsLinks, KnowsPeers

__all__ = ["Redial"]

WATCH_S: Final = 0.5
"""Between two looks at our links, unless `look_soon` asks for one."""
PAUSE_S: Final = 0.2
"""Before the first try: the other end, or zenoh itself, may be quicker."""
PAUSE_MAX_S: Final = 30.0
"""Between later tries, each pause twice as long as the one before. Longer leaves a healed network
apart for longer, shorter knocks oftener at the doors of the dead."""
FORGET_S: Final = 1_800.0
"""Who cannot be reached for so long is left to itself; who restarts dials us."""
MEET_S: Final = 5.0
"""How long one try may take from the first answer on."""
PROBE_S: Final = 1.0
POLL_S: Final = 0.02
LOST_MAX: Final = 256
"""Addresses that are tried in turn; links that break beyond are left to themselves."""
THREADS: Final = 2
"""Tries at one time; on threads of their own, as each blocks and large frames wait for others."""


class Redial:
    """Watches those links of a listening session that it dialled itself.

    `own` is where the session can be dialled from this machine. `open_beside` opens a session that
    listens nowhere, dials these addresses and nobody else; it blocks, and raises zenoh.ZError.
    """

    def __init__(
        self, session: zenoh.Session, own: str, open_beside: Callable[[list[str]], zenoh.Session]
    ) -> None:
        self._session = session
        self._own = own
        self._open_beside = open_beside
        self._lost: set[str] = set()
        self._due = asyncio.Event()
        self._stopped = threading.Event()
        self._threads = ThreadPoolExecutor(THREADS, "shardline-redial")

    def look_soon(self) -> None:
        """Links changed: a new one that is not looked at before it breaks is not missed then."""
        self._due.set()

    async def run(self) -> None:
        """Dial again what breaks, until cancelled."""
        known: dict[str, str] = {}
        async with asyncio.TaskGroup() as group:
            try:
                while True:
                    self._due.clear()
                    now = self._dialled()
                    for lost in known.keys() - now.keys() - self._lost:
                        if len(self._lost) < LOST_MAX:
                            self._lost.add(lost)
                            group.create_task(self._dial(lost, {known[lost]}))
                    known = now
                    with suppress(TimeoutError):
                        async with asyncio.timeout(WATCH_S):
                            await self._due.wait()
            except zenoh.ZError:
                return  # the session closed first
            finally:
                self._stopped.set()
                self._threads.shutdown(wait=False, cancel_futures=True)

    def _dialled(self) -> dict[str, str]:
        """Who is at the other end of each link that we dialled, by address.

        Who dialled us sees to its link itself.
        """
        links = cast("KnowsLinks", self._session.info).links()
        ours = (link for link in links if _port(_address(link.src)) != _port(self._own))
        return {_address(link.dst): str(link.zid) for link in ours}

    async def _dial(self, lost: str, peers: set[str]) -> None:
        """Try until we are linked to one of these peers, or to whoever is at their address now."""
        loop, pause_s = asyncio.get_running_loop(), PAUSE_S
        try:
            async with asyncio.timeout(FORGET_S):
                while True:
                    await asyncio.sleep(pause_s)
                    if peers & _peers(self._session):
                        return
                    met = await loop.run_in_executor(self._threads, self._meet, lost)
                    pause_s = PAUSE_S if met else min(2 * pause_s, PAUSE_MAX_S)
                    peers |= met
        except (TimeoutError, zenoh.ZError):
            return  # it took too long, or our session closed
        finally:
            self._lost.discard(lost)  # at once, so that no break is missed
            self.look_soon()

    def _meet(self, lost: str) -> set[str]:
        """Have us linked to who is at this address: who that is, or nobody; blocks."""
        if not _answers(lost):
            return set()
        deadline_s = time.monotonic() + MEET_S
        try:
            beside = self._open_beside([lost, self._own])
        except zenoh.ZError:
            return set()
        try:
            while time.monotonic() < deadline_s and not self._stopped.wait(POLL_S):
                others = _peers(beside) - {str(self._session.zid())}
                if not others:
                    return set()  # that link broke too, and is not dialled again
                if others <= _peers(self._session):
                    return others
            return set()
        finally:
            cast("Closes", beside).close()


def _address(locator: str) -> str:
    """HOST:PORT of a locator."""
    return locator.partition("/")[2].partition("?")[0]


def _port(address: str) -> str:
    return address.rpartition(":")[2]


def _peers(session: zenoh.Session) -> set[str]:
    """Who is linked to this session."""
    return {str(peer) for peer in cast("KnowsPeers", session.info).peers_zid()}


def _answers(address: str) -> bool:
    """Whether connections are taken there."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_S):
            return True
    except OSError:
        return False
