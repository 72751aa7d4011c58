"""Checking signatures, and the few libsodium calls that the handshake needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base
from nacl.exceptions import BadSignatureError, CryptoError
from nacl.signing import VerifyKey

from shardline.core.errors import PeerFault

if TYPE_CHECKING:
    from shardline.core.ids import NodeId

__all__ = ["ID_BYTES", "exchange", "public_half", "verify"]

ID_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64


def verify(node_id: NodeId, data: bytes, signature: bytes) -> bool:
    """Whether `signature` is this node's for `data`; False too for what is no key or signature.

    libsodium refuses the small-order keys that other ed25519 code accepts (decision 0002).
    """
    try:
        VerifyKey(bytes.fromhex(node_id)).verify(data, signature)
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True


def public_half(private: bytes) -> bytes:
    """The X25519 public key of 32 random bytes."""
    return crypto_scalarmult_base(private)


def exchange(private: bytes, public: bytes) -> bytes:
    """The X25519 shared secret; raises PeerFault for a public key of small order."""
    try:
        return crypto_scalarmult(private, public)
    except (CryptoError, ValueError, TypeError, RuntimeError):
        raise PeerFault("a handshake with a weak key") from None
