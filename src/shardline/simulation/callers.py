"""Callers in the simulated swarm: chains by the real `choose_chain`, over what one member sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardline.core.errors import NotCovered
from shardline.swarm import Bans, Hop, State, choose_chain

if TYPE_CHECKING:
    from random import Random

    from shardline.core.spans import Span
    from shardline.simulation.agenda import Agenda
    from shardline.simulation.gossip import Gossip
    from shardline.simulation.report import Settings, Tally

__all__ = ["Callers"]

SESSION_S = 60.0
"""How long a session uses its chain."""
TRIES = 8


class Callers:
    """Requests from random members; each caller's bans are those of its machine."""

    def __init__(
        self, agenda: Agenda, gossip: Gossip, tally: Tally, luck: Random, settings: Settings
    ) -> None:
        self._agenda = agenda
        self._gossip = gossip
        self._tally = tally
        self._luck = luck
        self._settings = settings
        self._bans: dict[int, Bans] = {}
        self._asked = 0

    def call(self, fingerprint: str) -> None:
        """One session begins at a member that is here; nothing happens if there is none."""
        awake = [
            number
            for number, peer in enumerate(self._gossip.peers)
            if peer is not None and peer.record is not None and not self._gossip.frozen(number)
        ]
        if not awake:
            return
        self._asked += 1
        session = _Session(self, self._luck.choice(awake), f"{self._asked}", fingerprint)
        chain = session.route(None)
        if chain is None:
            self._tally.failed += 1
        else:
            self._agenda.after(SESSION_S, lambda: session.end(chain))

    def route(self, session: _Session, within: Span | None) -> tuple[Hop, ...] | None:
        """A chain whose every node is there and holds its part, or None."""
        peer = self._gossip.peers[session.number]
        if peer is None:
            return None
        bans = self._bans.setdefault(session.number, Bans())
        for _ in range(TRIES):
            try:
                chain = choose_chain(
                    peer.seen.values(),
                    blocks=self._settings.blocks,
                    fingerprint=session.fingerprint,
                    within=within,
                    discouraged=bans.avoid(self._agenda.now_s),
                    links=peer.machine.links,
                    salt=session.salt,
                )
            except NotCovered:
                return None
            bad = [hop.node for hop in chain if not self.holds(session.number, hop)]
            if not bad:
                return chain
            self._tally.retried += len(bad)
            for node in bad:
                bans.failed(node, self._agenda.now_s)
        return None

    def holds(self, number: int, hop: Hop) -> bool:
        """Whether this node truly is there for the caller, and serves the part."""
        other = self._gossip.number(hop.node)
        peer = self._gossip.peers[other]
        if peer is None or peer.record is None:
            return False
        if other != number and not self._gossip.reaches(number, other):
            return False
        record = peer.record
        return (
            record.state is not State.LOADING
            and record.start <= hop.span.start
            and hop.span.stop <= record.stop
        )

    def count(self, *, served: bool, mended: bool = False) -> None:
        """How a session ended."""
        self._tally.served += served
        self._tally.failed += not served
        self._tally.mended += mended


class _Session:
    """One caller's use of a chain; a part whose node is lost is routed again."""

    def __init__(self, callers: Callers, number: int, salt: str, fingerprint: str) -> None:
        self._callers = callers
        self.number = number
        self.salt = salt
        self.fingerprint = fingerprint

    def route(self, within: Span | None) -> tuple[Hop, ...] | None:
        """See Callers."""
        return self._callers.route(self, within)

    def end(self, chain: tuple[Hop, ...]) -> None:
        """Mend what was lost meanwhile, part by part."""
        lost = [hop for hop in chain if not self._callers.holds(self.number, hop)]
        mended = all(self.route(hop.span) is not None for hop in lost)
        self._callers.count(served=mended, mended=bool(lost) and mended)
