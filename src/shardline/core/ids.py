"""Names of things that travel. A node's id is its public key, so nobody can borrow it."""

from __future__ import annotations

import secrets
from typing import NamedTuple, NewType

__all__ = ["PROTOCOL", "NodeId", "Seat", "SessionId", "new_session_id", "short"]

PROTOCOL = 2
"""Version of everything two nodes say to each other; raised with any change that breaks it."""

NodeId = NewType("NodeId", str)
"""An ed25519 public key as 64 hexadecimal digits."""

SessionId = NewType("SessionId", str)
"""128 random bits as 32 hexadecimal digits: nobody guesses another caller's session."""


class Seat(NamedTuple):
    """A session's place at a node: a node may hold two parts of one chain."""

    session: SessionId
    start: int
    """The first block of the part."""


def new_session_id() -> SessionId:
    """A fresh session's id."""
    return SessionId(secrets.token_hex(16))


def short(node: NodeId) -> str:
    """The first eight digits, for people."""
    return node[:8]
