"""Who a node is: an ed25519 key on its disk. Its public half is its id, so nobody can borrow it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nacl.signing import SigningKey

from shardline.core.errors import BadInput
from shardline.core.ids import NodeId
from shardline.swarm.private_files import read_private, write_private

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Identity"]

_KIND = "ed25519"
_SEED_DIGITS = 64
_FILE_BYTES_MAX = 256


class Identity:
    """A signing key; a `Signer` for records and channels. Its repr shows the public half alone.

    One identity is one node: two processes must not serve with the same file at the same time.
    """

    __slots__ = ("_key", "node_id")

    def __init__(self, key: SigningKey) -> None:
        self._key = key
        self.node_id = NodeId(bytes(key.verify_key).hex())

    def __repr__(self) -> str:
        return f"Identity({self.node_id})"

    def sign(self, data: bytes) -> bytes:
        """The ed25519 signature of the data, 64 bytes."""
        return self._key.sign(data).signature

    @classmethod
    def ephemeral(cls) -> Identity:
        """A fresh identity that lives in memory only: for callers and tests."""
        return cls(SigningKey.generate())

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """The identity of this file, made if it is missing; of two that make it, one wins for both.

        Raises BadInput if others may read the file, or if it is damaged.
        """
        try:
            return cls._load(path)
        except FileNotFoundError:
            fresh = cls.ephemeral()
        try:
            write_private(path, fresh.line().encode(), replace=False)
        except FileExistsError:
            return cls._load(path)
        return fresh

    def line(self) -> str:
        """The identity's file: kind, secret seed, public key."""
        return f"{_KIND} {bytes(self._key).hex()} {self.node_id}\n"

    @classmethod
    def _load(cls, path: Path) -> Identity:
        words = read_private(path, _FILE_BYTES_MAX).decode("ascii", "replace").split()
        damaged = BadInput(
            f"{path} holds no identity: restore it, or remove it to become a new node"
        )
        if len(words) != 3 or words[0] != _KIND or len(words[1]) != _SEED_DIGITS:  # noqa: PLR2004
            raise damaged
        try:
            identity = cls(SigningKey(bytes.fromhex(words[1])))
        except ValueError:
            raise damaged from None
        if identity.node_id != words[2]:
            raise damaged
        return identity
