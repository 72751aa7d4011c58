"""Who is at the other end, and do both hold the swarm's key; sans-I/O.

    I -> R  hello    magic · version · ephemeral key · MAC under the membership key
    R -> I  reply    magic · version · ephemeral key · sealed(boot · signature)
    I -> R  answer   sealed(node id · boot · signature)
    R -> I  welcome  an empty sealed frame

The initiator knows whom it calls; the responder learns who calls only from a member. Both sign
the transcript with their ed25519 node key, and all keys are drawn from the X25519 secret, the
membership key and the transcript, so neither a man in the middle nor a stranger without the
invite can finish. Only the version travels in clear and comes first, so that two versions can at
least say so. `boot` is drawn at a node's start: it tells a restart from a second channel.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import blake2b
from hmac import compare_digest
from secrets import token_bytes
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shardline.core.errors import ForeignInvite, PeerFault, ProtocolMismatch
from shardline.core.ids import PROTOCOL, NodeId, short
from shardline.wire.keys import ID_BYTES, SIGNATURE_BYTES, exchange, public_half, verify
from shardline.wire.sealing import TAG_BYTES, Opener, Sealer

if TYPE_CHECKING:
    from shardline.core.signer import Signer

__all__ = [
    "BOOT_BYTES",
    "HANDSHAKE_BYTES_MAX",
    "MEMBERSHIP_KEY_BYTES",
    "Established",
    "Identity",
    "Initiator",
    "Responder",
    "refusal",
]

BOOT_BYTES: Final = 8
MEMBERSHIP_KEY_BYTES: Final = 32
HANDSHAKE_BYTES_MAX: Final = 256
"""No message of a handshake is longer; a longer one is refused unread."""

_MAGIC = b"shardln\n"
_HEAD = struct.Struct(">8sH")
_KEY_BYTES = 32
_HELLO_BYTES = _HEAD.size + _KEY_BYTES + 32
_REPLY_BYTES = _HEAD.size + _KEY_BYTES + BOOT_BYTES + SIGNATURE_BYTES + TAG_BYTES
_ANSWER_BYTES = ID_BYTES + BOOT_BYTES + SIGNATURE_BYTES + TAG_BYTES
_NONCE = bytes(12)  # every handshake key seals one message


@dataclass(frozen=True, slots=True)
class Identity:
    """What a node brings to every handshake; `protocol` is for tests of other versions."""

    signer: Signer
    membership_key: bytes
    boot: bytes
    protocol: int = PROTOCOL

    def __post_init__(self) -> None:
        if len(self.membership_key) != MEMBERSHIP_KEY_BYTES or len(self.boot) != BOOT_BYTES:
            raise ValueError("a membership key has 32 bytes and a boot number 8")


@dataclass(frozen=True, slots=True)
class Established:
    """A finished handshake: who is at the other end, and what to seal and open with."""

    peer: NodeId
    boot: bytes
    sealer: Sealer
    opener: Opener


def _hash(label: bytes, *parts: bytes) -> bytes:
    return blake2b(b"".join(parts), digest_size=32, person=label.ljust(16, b"\0")).digest()


def _keyed(key: bytes, label: bytes, *parts: bytes) -> bytes:
    joined = b"".join(parts)
    return blake2b(joined, key=key, digest_size=32, person=label.ljust(16, b"\0")).digest()


def _seal(key: bytes, plain: bytes) -> bytes:
    return AESGCM(key).encrypt(_NONCE, plain, None)


def _unseal(key: bytes, sealed: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(_NONCE, sealed, None)
    except InvalidTag:
        raise PeerFault(
            "a handshake that does not fit: changed on the way, or a stranger"
        ) from None


def _head(protocol: int) -> bytes:
    return _HEAD.pack(_MAGIC, protocol)


def _check_version(message: bytes, ours: int) -> None:
    """Raise ProtocolMismatch or PeerFault unless `message` starts with our magic and version."""
    if not _HEAD.size <= len(message) <= HANDSHAKE_BYTES_MAX:
        raise PeerFault(f"a handshake of {len(message)} bytes")
    magic, theirs = _HEAD.unpack_from(message)
    if magic != _MAGIC:
        raise PeerFault("no handshake of ours")
    if theirs != ours:
        raise ProtocolMismatch(
            f"the other side speaks protocol {theirs}, this one {ours}: run the same version"
        )


def refusal(identity: Identity) -> bytes:
    """What a responder sends before it closes on a stranger or on another version."""
    return _head(identity.protocol)


class _Transcript:
    """The secrets that both sides draw from what was said so far."""

    def __init__(self, membership_key: bytes, hello: bytes, responder: NodeId) -> None:
        self._membership_key = membership_key
        self._root = b""
        self._digest = _hash(b"hello", hello, bytes.fromhex(responder))

    def exchanged(self, clear: bytes, secret: bytes) -> None:
        """The responder's clear part came, and with it the shared secret."""
        self._digest = _hash(b"exchanged", self._digest, clear)
        self._root = _keyed(self._membership_key, b"root", secret, self._digest)

    def said(self, sealed: bytes) -> None:
        self._digest = _hash(b"said", self._digest, sealed)

    def key(self, label: bytes) -> bytes:
        return _keyed(self._root, label, self._digest)

    def to_sign(self, role: bytes, *claims: bytes) -> bytes:
        return b"shardline handshake " + role + _hash(b"sign " + role, self._digest, *claims)


def _hello_mac(membership_key: bytes, clear: bytes, responder: NodeId) -> bytes:
    return _keyed(membership_key, b"member", clear, bytes.fromhex(responder))


class Initiator:
    """The side that calls: `hello`, then `answer`, then `welcomed`, once each."""

    def __init__(self, identity: Identity, responder: NodeId) -> None:
        self._identity = identity
        self._responder = responder
        self._private = token_bytes(_KEY_BYTES)
        clear = _head(identity.protocol) + public_half(self._private)
        self._hello = clear + _hello_mac(identity.membership_key, clear, responder)
        self._transcript = _Transcript(identity.membership_key, self._hello, responder)
        self._established: Established | None = None

    def hello(self) -> bytes:
        """The first message."""
        return self._hello

    def answer(self, reply: bytes) -> bytes:
        """The answer to the responder's reply.

        Raises ProtocolMismatch, ForeignInvite if the other side does not know our membership key,
        PeerFault if it is not the node we call or is no node.
        """
        _check_version(reply, self._identity.protocol)
        if len(reply) == _HEAD.size:
            raise ForeignInvite(f"node {short(self._responder)} is of another swarm")
        if len(reply) != _REPLY_BYTES:
            raise PeerFault(f"a handshake reply of {len(reply)} bytes")
        split = _HEAD.size + _KEY_BYTES
        clear, sealed = reply[:split], reply[split:]
        transcript = self._transcript
        transcript.exchanged(clear, exchange(self._private, clear[_HEAD.size :]))
        plain = _unseal(transcript.key(b"reply"), sealed)
        boot, signature = plain[:BOOT_BYTES], plain[BOOT_BYTES:]
        if not verify(self._responder, transcript.to_sign(b"responder", boot), signature):
            raise PeerFault(f"whoever answers is not node {short(self._responder)}")
        transcript.said(sealed)
        answer = self._answer(transcript)
        transcript.said(answer)
        self._established = Established(
            self._responder,
            boot,
            Sealer(transcript.key(b"from initiator")),
            Opener(transcript.key(b"from responder")),
        )
        return answer

    def _answer(self, transcript: _Transcript) -> bytes:
        signer = self._identity.signer
        claims = bytes.fromhex(signer.node_id) + self._identity.boot
        signature = signer.sign(transcript.to_sign(b"initiator", claims))
        return _seal(transcript.key(b"answer"), claims + signature)

    def welcomed(self, welcome: bytes) -> Established:
        """The channel, once the responder shows that it has the same keys."""
        if self._established is None:
            raise ValueError("welcomed before the answer")
        if len(self._established.opener.open(welcome)):
            raise PeerFault("a welcome that is not empty")
        return self._established


class Responder:
    """The side that is called: `reply`, then `welcome`, once each."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._transcript: _Transcript | None = None

    def reply(self, hello: bytes) -> bytes:
        """The reply to a hello; send `refusal` if it raises ProtocolMismatch or ForeignInvite."""
        _check_version(hello, self._identity.protocol)
        if len(hello) != _HELLO_BYTES:
            raise PeerFault(f"a handshake hello of {len(hello)} bytes")
        signer, membership_key = self._identity.signer, self._identity.membership_key
        clear, mac = hello[: _HEAD.size + _KEY_BYTES], hello[_HEAD.size + _KEY_BYTES :]
        if not compare_digest(mac, _hello_mac(membership_key, clear, signer.node_id)):
            raise ForeignInvite("a caller that does not hold this swarm's invite, or seeks another")
        private = token_bytes(_KEY_BYTES)
        transcript = _Transcript(membership_key, hello, signer.node_id)
        answer = _head(self._identity.protocol) + public_half(private)
        transcript.exchanged(answer, exchange(private, clear[_HEAD.size :]))
        boot = self._identity.boot
        signature = signer.sign(transcript.to_sign(b"responder", boot))
        sealed = _seal(transcript.key(b"reply"), boot + signature)
        transcript.said(sealed)
        self._transcript = transcript
        return answer + sealed

    def welcome(self, answer: bytes) -> tuple[bytes, Established]:
        """The last message and the channel; raises PeerFault if the caller proves nothing."""
        if self._transcript is None:
            raise ValueError("an answer before the hello")
        if len(answer) != _ANSWER_BYTES:
            raise PeerFault(f"a handshake answer of {len(answer)} bytes")
        transcript, self._transcript = self._transcript, None
        plain = _unseal(transcript.key(b"answer"), answer)
        claims, signature = plain[: ID_BYTES + BOOT_BYTES], plain[ID_BYTES + BOOT_BYTES :]
        peer = NodeId(claims[:ID_BYTES].hex())
        if not verify(peer, transcript.to_sign(b"initiator", claims), signature):
            raise PeerFault(f"a caller that is not the node {short(peer)} it says it is")
        transcript.said(answer)
        established = Established(
            peer,
            claims[ID_BYTES:],
            Sealer(transcript.key(b"from responder")),
            Opener(transcript.key(b"from initiator")),
        )
        return bytes(established.sealer.seal((), 0)), established
