"""Work that a peer's messages ask for: each in a task of its own, counted and supervised."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, ParamSpec

from shardline.core.ids import short

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from shardline.core.ids import NodeId

__all__ = ["PeerTasks", "Ration"]

P = ParamSpec("P")

_log = logging.getLogger(__name__)

UNDER_WAY_MAX = 4_096
"""Messages of one peer that may be worked on at once; each holds a task. More is a flood."""


class Ration:
    """So many of something a second for each peer; it remembers nobody for longer."""

    def __init__(self, per_s: int) -> None:
        self._per_s = per_s
        self._second = 0
        self._taken: Counter[NodeId] = Counter()

    def take(self, peer: NodeId, now_s: float) -> bool:
        """Whether this peer may have one more in this second."""
        if int(now_s) != self._second:
            self._second = int(now_s)
            self._taken.clear()
        self._taken[peer] += 1
        return self._taken[peer] <= self._per_s


class PeerTasks:
    """Starts tasks for peers; an error of ours ends its task and never the node."""

    def __init__(self, spawn: Callable[[Coroutine[None, None, None]], object]) -> None:
        self._spawn = spawn
        self._under_way: Counter[NodeId] = Counter()

    def floods(self, peer: NodeId) -> bool:
        """Whether this peer has as much under way as one may."""
        return self._under_way[peer] >= UNDER_WAY_MAX

    def start(
        self, peer: NodeId, work: Callable[P, Awaitable[None]], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Do this work for a peer, counted while it lasts."""
        self._under_way[peer] += 1
        self._spawn(self._supervise(peer, work, *args, **kwargs))

    async def _supervise(
        self, peer: NodeId, work: Callable[P, Awaitable[None]], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        try:
            await work(*args, **kwargs)
        except Exception:  # noqa: BLE001  (a task's supervisor: the node serves on)
            _log.exception("a bug of ours, met by what node %s sent", short(peer))
        finally:
            self._under_way[peer] -= 1
            if not self._under_way[peer]:
                del self._under_way[peer]
