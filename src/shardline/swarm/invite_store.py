"""The invites this person made or used, one private file a swarm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardline.core.clock import Clock, SystemClock
from shardline.core.errors import BadInput, BadInvite, InviteExpired
from shardline.swarm.invite import TEXT_CHARS_MAX, Invite
from shardline.swarm.private_files import read_private, write_private

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["InviteStore"]


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
