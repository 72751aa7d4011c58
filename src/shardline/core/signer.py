"""The port through which a room proves who it is, without ever seeing a private key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from shardline.core.ids import NodeId

__all__ = ["Signer"]


class Signer(Protocol):
    """Holds one ed25519 key. `wire.verify` checks what it signs; it promises no secrecy."""

    @property
    def node_id(self) -> NodeId:
        """The public key, as 64 hexadecimal digits."""
        ...

    def sign(self, data: bytes) -> bytes:
        """The 64-byte ed25519 signature of `data`; callers put a label of their own in front."""
        ...
