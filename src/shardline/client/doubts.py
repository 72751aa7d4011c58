"""What is held against the nodes of one session, and which hops have to be replaced for it.

What a node says of itself or of its neighbour costs a place in the chain, and never the session:
it may be broken, or lie. Pure: what was heard goes in, the lost hops come out.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

from shardline.core.errors import (
    CacheFull,
    GiveUp,
    JournalLost,
    NodeLost,
    PeerFault,
    StepFailed,
)
from shardline.core.ids import short

if TYPE_CHECKING:
    from shardline.core.errors import ShardlineError
    from shardline.core.ids import NodeId
    from shardline.swarm import Hop

__all__ = ["Doubts"]

BLAMED_MAX = 2
"""So often, in one step, may one node call neighbours lost that nobody else misses; then it is left
itself."""
STUCK_MAX = 5
"""So often may it call the same one lost; then there is no other for either, and no way through.
Each time takes as long as it tries to reach it, some seconds."""
FAILS_MAX = 3
"""So often, in one step, may one node's own computation fail at one place; then it is not asked
again: what was sent may be what fails everywhere."""
COMPLAINTS_MAX = 2
"""When so many nodes fail at one place, in one step, whoever sent it to them is suspected too."""


class Doubts:
    """Heard against nodes, by whom and how often."""

    def __init__(self) -> None:
        self.avoid: dict[NodeId, ShardlineError] = {}
        """Not to be asked again unless there is no other."""
        self.refused: dict[NodeId, ShardlineError] = {}
        """Those among them whose answer was none that an honest node gives: not asked again."""
        self.suspected: dict[NodeId, ShardlineError] = {}
        """Those among them that others fail over, though they say nothing wrong themselves."""
        self.lost: dict[int, ShardlineError] = {}
        """First blocks of the chain's hops whose seats are lost, and why."""
        self._gone: dict[NodeId, ShardlineError] = {}
        """Nodes that were heard to be gone, and why; not yet looked at."""
        self._blamed: dict[NodeId, Counter[NodeId]] = {}
        self._complaints: dict[int, list[NodeId]] = {}

    def gone(self, node: NodeId, cause: ShardlineError) -> None:
        """Its seats are lost to us; it may be asked again."""
        self._gone[node] = cause
        for blamed in self._blamed.values():
            del blamed[node]

    def failed(self, node: NodeId, cause: ShardlineError) -> None:
        """Its seats are lost to us, and others are asked first."""
        self.avoid[node] = self._gone[node] = cause

    def refuse(self, node: NodeId, cause: ShardlineError) -> None:
        """It answered what no honest node answers to an honest caller, or to an honest sender."""
        self.refused[node] = cause
        self.failed(node, cause)

    def is_gone(self, *nodes: NodeId) -> bool:
        """Whether one of these is gone, by what was heard since the last look."""
        return not self._gone.keys().isdisjoint(nodes)

    def asked(self, *nodes: NodeId) -> None:
        """These are asked for new seats: what was heard of their old ones does not count."""
        for node in nodes:
            self._gone.pop(node, None)

    def joined(self, node: NodeId) -> None:
        """It came, or came back."""
        if node not in self.refused and node not in self.suspected:
            self.avoid.pop(node, None)

    def answered(
        self, peer: NodeId, error: ShardlineError, about: NodeId | None, chain: tuple[Hop, ...]
    ) -> None:
        """A node of the chain could not do a step."""
        if isinstance(error, JournalLost):  # it cannot fill the gap behind it: it is part of it
            self.gone(peer, error)
        elif about not in {None, peer}:
            assert about is not None
            self._blames(peer, about, error, chain)
        else:
            self.complained(peer, error, chain)

    def complained(self, node: NodeId, error: ShardlineError, chain: tuple[Hop, ...]) -> None:
        """It failed, or says so: that is one more failure at its place in the chain."""
        times = 0
        for hop in chain:
            if hop.node == node and node not in self._gone:
                at_place = self._complaints.setdefault(hop.span.start, [])
                at_place.append(node)
                times = max(times, at_place.count(node))
        hopeless = isinstance(error, StepFailed) and times >= FAILS_MAX
        if hopeless or isinstance(error, GiveUp | CacheFull):
            self.refuse(node, error)
        else:
            self.failed(node, error)

    def look(self, chain: tuple[Hop, ...]) -> bool:
        """Whether seats of the chain are lost, by all that was heard."""
        for hop in chain:
            if hop.node in self._gone:
                self.lost[hop.span.start] = self._gone[hop.node]
        self._gone.clear()
        return bool(self.lost)

    def reach_further(self, start: int) -> bool:
        """Whether nodes keep failing at this place, so that their sender may be the reason."""
        return len(self._complaints.get(start, ())) >= COMPLAINTS_MAX

    def stuck(self) -> tuple[NodeId, NodeLost] | None:
        """Who cannot reach whom behind it, though both live and were asked again and again."""
        for peer, blamed in self._blamed.items():
            for about, times in blamed.items():
                if times >= STUCK_MAX:
                    text = f"it cannot reach node {short(about)}, tried {times} times"
                    return peer, NodeLost(text)
        return None

    def suspect(self, sender: Hop) -> None:
        """It is the sender that is bad; those that failed over what it sent are cleared."""
        cleared = self._complaints.pop(sender.span.stop, [])
        for node in cleared:
            self.refused.pop(node, None)
        names = " and ".join(map(short, cleared)) or "the next node"
        fault = PeerFault(f"what node {short(sender.node)} sent was refused by {names}")
        self.suspected[sender.node] = fault
        self.failed(sender.node, fault)

    def step_done(self) -> None:
        """The chain works: failures are counted anew."""
        self._complaints.clear()
        self._blamed.clear()

    def _blames(
        self, peer: NodeId, about: NodeId, error: ShardlineError, chain: tuple[Hop, ...]
    ) -> None:
        """A node may only speak of the one behind it; of an old one it is too late."""
        neighbours = {(hop.node, after.node): after for hop, after in pairwise(chain)}
        behind = neighbours.get((peer, about))
        if behind is None:
            return
        blamed = self._blamed.setdefault(peer, Counter())
        if about not in self._gone and behind.span.start not in self.lost:
            blamed[about] += 1
        self.failed(about, error)
        if blamed.total() >= BLAMED_MAX:
            names = " and ".join(map(short, blamed))
            text = f"node {short(peer)} cannot reach {names}, whom nobody else misses"
            self.suspected[peer] = PeerFault(text)
            self.failed(peer, self.suspected[peer])
