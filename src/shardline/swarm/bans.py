"""Which peers not to ask for a while: a failed one is banned, longer each time (BSNS, PAPER 1).

The rule of the runtime family that BSNS builds on (Petals): 15 s, doubling. Ours: failures that are
told while a ban lasts are the same failure seen by several sessions and count once; a ban is
forgotten after a success, or when the peer was left alone for as long as the longest ban. A ban is
advice: `choose_chain(discouraged=...)` still uses the peer where no chain goes without it.

Pure: events and times come in, there is no clock inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardline.core.ids import NodeId

__all__ = ["Bans"]

FIRST_S = 15.0
"""The first ban. Shorter tries a broken node sooner; longer wastes one that only hiccupped."""
MOST_S = 600.0
"""The longest ban, and how long a peer has to be quiet until all is forgotten."""
PEERS_MAX = 4_096
"""Peers remembered; of more, those whose bans end first are forgotten."""


@dataclass(slots=True)
class _Ban:
    until_s: float
    length_s: float


class Bans:
    """One caller's memory of who failed it. Times are seconds of any one clock."""

    def __init__(self, *, first_s: float = FIRST_S, most_s: float = MOST_S) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._bans: dict[NodeId, _Ban] = {}

    def failed(self, node: NodeId, now_s: float) -> float:
        """A peer failed at this time; returns the seconds it is banned for from now."""
        self._forget(now_s)
        ban = self._bans.get(node)
        if ban is None:
            ban = self._bans[node] = _Ban(now_s + self._first_s, self._first_s)
            self._bound()
        elif now_s >= ban.until_s:
            ban.length_s = min(2 * ban.length_s, self._most_s)
            ban.until_s = now_s + ban.length_s
        return ban.until_s - now_s

    def succeeded(self, node: NodeId) -> None:
        """A peer did what it was asked, or started anew: it is forgiven."""
        self._bans.pop(node, None)

    def avoid(self, now_s: float) -> Mapping[NodeId, float]:
        """The peers that are banned now, and for how many seconds still."""
        return {
            node: ban.until_s - now_s for node, ban in self._bans.items() if now_s < ban.until_s
        }

    def _forget(self, now_s: float) -> None:
        quiet = [node for node, ban in self._bans.items() if now_s - ban.until_s >= self._most_s]
        for node in quiet:
            del self._bans[node]

    def _bound(self) -> None:
        if len(self._bans) > PEERS_MAX:
            del self._bans[min(self._bans, key=lambda node: self._bans[node].until_s)]
