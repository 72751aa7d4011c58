"""Invites this person made or used, and where members were heard: one private file a swarm."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from shardline.core.clock import Clock, SystemClock
from shardline.core.errors import BadInput, BadInvite, InviteExpired
from shardline.swarm.invite import ADDRESS_CHARS_MAX, TEXT_CHARS_MAX, Invite, check_address
from shardline.swarm.private_files import read_private, write_private

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["AddressBook", "InviteStore"]

KNOWN_MAX = 24
"""Addresses kept of one swarm. More find it after longer absence; all are dialled at each start."""


class InviteStore:
    """`home/invites/<swarm id>`, each 0600."""

    def __init__(self, home: Path, clock: Clock | None = None) -> None:
        self._folder = home / "invites"
        self._clock = clock or SystemClock()

    def save(self, invite: Invite) -> None:
        """Keep this invite in place of an earlier one of its swarm; raises BadInput."""
        line = f"{invite.encode()}\n".encode()
        write_private(self._folder / invite.swarm_id, line, replace=True)

    def load(self) -> list[Invite]:
        """All invites that still open, the last saved first; expired ones are removed.

        Raises BadInput if a file is damaged or can be read by others.
        """
        if not self._folder.is_dir():
            return []
        found: list[tuple[int, str, Invite]] = []
        for path in self._folder.iterdir():
            if path.name.startswith("."):
                continue
            try:
                text = read_private(path, TEXT_CHARS_MAX).decode("ascii", "replace")
                invite = Invite.parse(text, clock=self._clock)
            except InviteExpired:
                path.unlink(missing_ok=True)
            except BadInvite as error:
                raise BadInput(f"{path}: {error}") from None
            except FileNotFoundError:  # removed beside us
                continue
            else:
                found.append((-path.stat().st_mtime_ns, path.name, invite))
        return [invite for _, _, invite in sorted(found, key=lambda item: item[:2])]


class AddressBook:
    """`home/addresses/<swarm id>`, each 0600: HOST:PORT of members, a line each, newest first."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "addresses"

    def known(self, swarm_id: str) -> tuple[str, ...]:
        """What was heard of this swarm; raises BadInput if others can read the file."""
        try:
            data = read_private(self._folder / swarm_id, KNOWN_MAX * (ADDRESS_CHARS_MAX + 1))
        except FileNotFoundError:
            return ()
        return _dialable(data.decode("ascii", "replace").split())

    def hear(self, swarm_id: str, addresses: Iterable[str]) -> None:
        """Keep these before those known already; what is not HOST:PORT is left out.

        Raises BadInput if the file cannot be written.
        """
        before = self.known(swarm_id)
        now = _dialable((*addresses, *before))
        if now != before:
            lines = "".join(f"{address}\n" for address in now)
            write_private(self._folder / swarm_id, lines.encode(), replace=True)


def _dialable(texts: Iterable[str]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for text in texts:
        with suppress(BadInput):
            found[check_address(text)] = None
    return tuple(found)[:KNOWN_MAX]
