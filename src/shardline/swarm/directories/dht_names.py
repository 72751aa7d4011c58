"""What a DHT's members are called, and where: libp2p's names, written as an invite writes them.

A member's place is `HOST:PORT/PEER`: where its daemon listens, and the name that the daemon proves
there. The name is its ed25519 public key (libp2p's "identity" multihash), so whoever derives the
key knows the name before the daemon has started.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from typing import TYPE_CHECKING, Final

from nacl.signing import SigningKey

from shardline.core.errors import BadInput

if TYPE_CHECKING:
    from shardline.core.signer import Signer

__all__ = ["PEER", "key_file", "listen_at", "multiaddr", "own_seed", "peer_id"]

PEER: Final = r"12D3KooW[1-9A-HJ-NP-Za-km-z]{44}"
"""A name, as a pattern."""

_PLACE: Final = re.compile(rf"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]{{1,100}}):(\d{{1,5}})/({PEER})")
_DIGITS: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
# libp2p's protobufs of a key: its kind (ed25519 is 1), then its bytes; before the public one, the
# code and the length of a hash that is the bytes themselves.
_PUBLIC: Final = bytes((0x00, 0x24, 0x08, 0x01, 0x12, 0x20))
_PRIVATE: Final = bytes((0x08, 0x01, 0x12, 0x40))


def peer_id(seed: bytes) -> str:
    """The name of the daemon with this key, in base 58; the seed has 32 bytes."""
    rest = int.from_bytes(_PUBLIC + bytes(SigningKey(seed).verify_key), "big")
    text = ""
    while rest:
        rest, digit = divmod(rest, len(_DIGITS))
        text = _DIGITS[digit] + text
    return _DIGITS[0] + text  # for the zero byte in front


def key_file(seed: bytes) -> bytes:
    """The key as the daemon reads it."""
    return _PRIVATE + seed + bytes(SigningKey(seed).verify_key)


def own_seed(signer: Signer, swarm: str) -> bytes:
    """A node's key in this swarm's DHT: the same after a restart, and no one else's.

    Signatures are deterministic, and this one is shown to nobody; the daemon cannot tell the node's
    own key from it.
    """
    return hashlib.sha256(signer.sign(f"shardline/1/dht daemon/{swarm}".encode())).digest()


def listen_at(host: str, port: int) -> str:
    """This address as a multiaddr; IPv6 without brackets."""
    try:
        kind = f"ip{ipaddress.ip_address(host).version}"
    except ValueError:
        kind = "dns"
    return f"/{kind}/{host}/tcp/{port}"


def multiaddr(place: str) -> str:
    """HOST:PORT/PEER as a multiaddr; raises BadInput for anything else."""
    match = _PLACE.fullmatch(place)
    if match is None:
        raise BadInput(f"{place!r} is no member of a DHT: write HOST:PORT/PEER")
    return f"{listen_at(match[1].strip('[]'), int(match[2]))}/p2p/{match[3]}"
