"""Files that a person names, read no farther than they may be long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardline.core.errors import BadInput

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_bounded"]


def read_bounded(path: Path, most_bytes: int, what: str) -> bytes:
    """All of the file; raises BadInput if it cannot be read or is too large for `what` it is."""
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > most_bytes:
        raise BadInput(f"{path} is too large for {what}")
    return data
