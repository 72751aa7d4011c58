"""An invite is all that a newcomer needs, and all that a stranger lacks.

It names the swarm and some addresses to knock at, and carries a secret. Whatever keeps strangers
out (membership key, TLS authority, key prefix) is derived from secret, swarm id and expiry, so an
invite whose expiry was edited opens another, empty swarm. The addresses are not part of it: any
member may hand out its own. Whoever holds an invite can make others of the same swarm and expiry.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import struct
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shardline.core.clock import Clock, SystemClock
from shardline.core.errors import BadInput, BadInvite, InviteExpired
from shardline.swarm.directories.dht_names import PEER, peer_id

__all__ = ["BOOTSTRAP_MAX", "DIRECTORIES", "Invite", "check_address"]

BOOTSTRAP_MAX = 8
"""Addresses in one invite: each adds about 24 characters, of a DHT's members 110."""
TEXT_CHARS_MAX = 2_560
ADDRESS_CHARS_MAX = 160
DIRECTORIES = ("zenoh", "dht")

_PREFIX = "sl1-"
_CHECK_BYTES = 4
_HEAD = struct.Struct(">8s16sI")  # swarm id, secret, expiry in seconds since 1970 or 0
_NEVER = 0
_EXPIRY_MAX_S = 2**32 - 1
_ADDRESS = re.compile(rf"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]{{1,100}}):([0-9]{{1,5}})(?:/{PEER})?")
_PORT_MAX = 65_535
_SWARM_ID = re.compile(r"[0-9a-f]{16}")
_SECRET_BYTES = 16
NO_RELAY = "none"
_NAT = "+nat="
_DHT = "+dht"
_RELAY = re.compile(r"none|n0|https://[A-Za-z0-9._-]{1,80}(?::[0-9]{1,5})?/?")


def check_address(text: str, *, port_min: int = 1) -> str:
    """The same text if it is HOST:PORT or [IPV6]:PORT, else BadInput. To listen, port 0 is any.

    The name of a DHT's member may stand behind, HOST:PORT/PEER; it uses the next port too.
    """
    match = _ADDRESS.fullmatch(text)
    port_max = _PORT_MAX - ("/" in text)
    if not match or len(text) > ADDRESS_CHARS_MAX or not port_min <= int(match[1]) <= port_max:
        raise BadInput(f"{text!r} is no address: write HOST:PORT or [IPV6]:PORT")
    return text


@dataclass(frozen=True, slots=True)
class Invite:
    """A private swarm's way in. Its repr hides the secret; `encode` is the only way to show it."""

    swarm_id: str
    """16 hexadecimal digits."""
    bootstrap: tuple[str, ...]
    """HOST:PORT of members to knock at; may be empty for the first member."""
    secret: bytes = field(repr=False)
    expires_at_s: int | None = None
    """Seconds since 1970, UTC; None is never."""
    nat: str | None = None
    """None: activations go over zenoh. Else over iroh, which finds ways through NATs, helped by
    this relay: `none`, `n0` (the public ones of its makers), or the https URL of one's own."""
    directory: str = "zenoh"
    """Who finds the nodes, one of DIRECTORIES. Of a DHT all addresses are HOST:PORT/PEER."""

    def __post_init__(self) -> None:
        if not _SWARM_ID.fullmatch(self.swarm_id) or len(self.secret) != _SECRET_BYTES:
            raise ValueError("an invite needs a swarm id of 16 digits and a secret of 16 bytes")
        if self.expires_at_s is not None and not _NEVER < self.expires_at_s <= _EXPIRY_MAX_S:
            raise BadInput("an invite cannot expire that late: leave the expiry out")
        if len(self.bootstrap) > BOOTSTRAP_MAX:
            raise BadInput(f"an invite holds at most {BOOTSTRAP_MAX} addresses")
        if self.directory not in DIRECTORIES:
            raise BadInput(f"{self.directory!r} is no directory: write {' or '.join(DIRECTORIES)}")
        for address in self.bootstrap:
            if not self.fits(check_address(address)):
                raise BadInput(f"{address!r} is no address of a swarm found by {self.directory}")
        if self.nat is not None and not _RELAY.fullmatch(self.nat):
            raise BadInput(f"{self.nat!r} is no relay: write none, n0, or https://HOST[:PORT]")

    @classmethod
    def new(
        cls,
        bootstrap: tuple[str, ...] = (),
        expires_in_s: float | None = None,
        *,
        nat: str | None = None,
        directory: str = "zenoh",
        clock: Clock | None = None,
    ) -> Invite:
        """A fresh swarm's invite; raises BadInput for a bad address or an expiry not ahead.

        The addresses, HOST:PORT, are where its first nodes will listen. A DHT is begun by one: all
        of them are that node's then.
        """
        expires_at_s = None
        if expires_in_s is not None:
            if not 1 <= expires_in_s <= _EXPIRY_MAX_S:
                raise BadInput("an invite's life is at least one second, and at most a century")
            expires_at_s = int((clock or SystemClock()).wall_s() + expires_in_s)
        swarm_id = secrets.token_hex(8)
        secret = secrets.token_bytes(_SECRET_BYTES)
        invite = cls(swarm_id, (), secret, expires_at_s, nat, directory)
        founder = f"/{peer_id(invite.founder_seed)}" if directory == "dht" else ""
        return replace(invite, bootstrap=tuple(f"{address}{founder}" for address in bootstrap))

    @classmethod
    def parse(cls, text: str, *, clock: Clock | None = None) -> Invite:
        """Read what `encode` wrote, spaces and capitals forgiven.

        Raises BadInvite, and InviteExpired.
        """
        invite = cls._read("".join(text[:TEXT_CHARS_MAX].split()).lower())
        invite.check_expiry((clock or SystemClock()).wall_s())
        return invite

    def encode(self) -> str:
        """The invite as one word to copy; it holds the secret."""
        expiry = _NEVER if self.expires_at_s is None else self.expires_at_s
        head = _HEAD.pack(bytes.fromhex(self.swarm_id), self.secret, expiry)
        words = list(self.bootstrap)
        words += [_DHT] if self.directory == "dht" else []
        words += [_NAT + self.nat] if self.nat is not None else []
        body = head + ",".join(words).encode()
        packed = base64.b32encode(body + _checksum(body)).decode()
        return _PREFIX + packed.rstrip("=").lower()

    @classmethod
    def _read(cls, text: str) -> Invite:
        if not text.startswith(_PREFIX):
            if re.match(r"sl[0-9]+-", text):
                version = text.partition("-")[0]
                raise BadInvite(f"an invite of version {version}: this shardline reads sl1")
            raise BadInvite("this is no invite: an invite starts with sl1-")
        packed = text.removeprefix(_PREFIX)
        try:
            data = base64.b32decode(packed.upper() + "=" * (-len(packed) % 8))
        except ValueError:  # binascii.Error, and what is not ASCII
            raise BadInvite("the invite is mistyped or cut short: copy the whole line") from None
        body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
        if len(body) < _HEAD.size or check != _checksum(body):
            raise BadInvite("the invite is mistyped or cut short: copy the whole line")
        swarm_id, secret, expiry = _HEAD.unpack_from(body)
        try:
            words = list(filter(None, body[_HEAD.size :].decode("ascii").split(",")))
            nat = words.pop().removeprefix(_NAT) if words and words[-1].startswith(_NAT) else None
            directory = "dht" if words and words[-1] == _DHT else "zenoh"
            places = tuple(words[:-1] if directory == "dht" else words)
            invite = cls(swarm_id.hex(), places, secret, expiry or None, nat, directory)
        except (UnicodeDecodeError, BadInput):
            raise BadInvite("the invite holds something that is no address") from None
        if invite.encode() != text:
            raise BadInvite("the invite is mistyped or cut short: copy the whole line")
        return invite

    def check_expiry(self, now_s: float) -> None:
        """Raise InviteExpired if the invite's time is over."""
        if self.expires_at_s is not None and now_s >= self.expires_at_s:
            when = datetime.fromtimestamp(self.expires_at_s, UTC)
            raise InviteExpired(
                f"the invite expired on {when:%Y-%m-%d %H:%M} UTC: ask for a new one"
            )

    def with_bootstrap(self, address: str) -> Invite:
        """The same swarm's invite with this address first, and as many others as there is room."""
        others = [known for known in self.bootstrap if known != address]
        return replace(self, bootstrap=(address, *others)[:BOOTSTRAP_MAX])

    def fits(self, address: str) -> bool:
        """Whether this is an address of this kind of swarm, as far as can be seen."""
        return ("/" in address) == (self.directory == "dht")

    @property
    def founder_seed(self) -> bytes:
        """The key of the daemon that begins the swarm's DHT, so that the invite can name it."""
        return self.derive("dht founder", 32)

    @property
    def membership_key(self) -> bytes:
        """32 bytes that only members know."""
        return self.derive("membership", 32)

    @property
    def prefix(self) -> str:
        """Where the swarm's keys live in the engine; says nothing of the secret."""
        return f"shardline/{self.derive('prefix', 8).hex()}"

    def derive(self, purpose: str, size: int) -> bytes:
        """Key material for one purpose (HKDF-SHA256 over secret, swarm id and expiry)."""
        salt = bytes.fromhex(self.swarm_id) + (self.expires_at_s or _NEVER).to_bytes(4, "big")
        info = b"shardline/1/" + purpose.encode()
        return HKDF(algorithm=hashes.SHA256(), length=size, salt=salt, info=info).derive(
            self.secret
        )


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(b"shardline invite" + body).digest()[:_CHECK_BYTES]
