"""What a node says of itself: signed, bounded, and over soon (BSNS, PAPER section 1).

A record is a map in MessagePack inside an envelope with its node's signature. Envelope, signature
and the three fields of the header (node, name, protocol) never change, whatever the protocol's
version: so a node of another version is named, not mistaken for garbage. Unknown fields are passed
over, so that a later version may add some.
"""

from __future__ import annotations

from enum import Enum
from itertools import repeat
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from shardline.core.errors import BadInput, PeerFault
from shardline.core.ids import PROTOCOL, NodeId
from shardline.core.spans import Span
from shardline.wire import verify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardline.core.signer import Signer

__all__ = [
    "CLOCK_SKEW_S",
    "LIFE_MAX_S",
    "PINGS_KEPT",
    "RECORD_BYTES_MAX",
    "Flow",
    "Foreign",
    "NodeRecord",
    "State",
    "check_name",
    "is_current",
    "open_record",
    "renew",
    "sign",
]

RECORD_BYTES_MAX = 16_384
"""One record with all its links; larger ones are refused unread."""
CLOCK_SKEW_S = 30.0
"""How far two machines' clocks may differ. A record counts from this long before it was issued
until this long after it ended: presence, not expiry, is what notices a death quickly."""
LIFE_MAX_S = 600.0
"""The longest a record may live; longer lets an old one be replayed for longer."""
LINKS_MAX = 128
PINGS_KEPT = 64
"""The window of `Flow.late`: more pings tell rare lateness, fewer forget it sooner."""
ADDRESSES_MAX = 8
"""Addresses in one record."""
CODECS_MAX = 8
NAME_CHARS_MAX = 64

_CONTEXT = b"shardline/record\x00"
_SIGNATURE_BYTES = 64
# No control characters and no direction overrides: names are printed on people's terminals.
_PLAIN = r"\A[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*\Z"

_Node = Annotated[NodeId, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX, pattern=_PLAIN)]
_Word = Annotated[str, Meta(max_length=128, pattern=_PLAIN)]
_Address = Annotated[str, Meta(min_length=1, max_length=1_024, pattern=r"\A[!-~]+\Z")]
_Addresses = Annotated[tuple[_Address, ...], Meta(max_length=ADDRESSES_MAX)]
_Codec = Annotated[str, Meta(min_length=1, max_length=16, pattern=r"\A[a-z0-9_]+\Z")]
_Codecs = Annotated[tuple[_Codec, ...], Meta(max_length=CODECS_MAX)]
_Count = Annotated[int, Meta(ge=0, le=2**60)]
_Rate = Annotated[float, Meta(ge=0, le=1e12)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Time = Annotated[float, Meta(ge=0, le=1e12)]
_Blocks = Annotated[int, Meta(ge=0, le=65_536)]
_Links = Annotated[dict[_Node, _Rate], Meta(max_length=LINKS_MAX)]


class State(Enum):
    """What a node will do with a request."""

    READY = "ready"
    LOADING = "loading"
    LEAVING = "leaving"


class Flow(msgspec.Struct, frozen=True, array_like=True):
    """What a node measured of a link beside its round trip; 13 bytes at most in a record."""

    up_kbit_s: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    """How fast a burst went there by this node's clock; 0 is not known."""
    down_kbit_s: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    """And back here."""
    late: Annotated[int, Meta(ge=0, le=PINGS_KEPT)] = 0
    """Of the last pings, those that nobody answered, or so late that something was sent again:
    links lose nothing that we could see, they are late instead."""
    pings: Annotated[int, Meta(ge=0, le=PINGS_KEPT)] = 0
    """Those last pings."""

    def __post_init__(self) -> None:
        if self.late > self.pings:
            raise ValueError(f"{self.late} of {self.pings} pings late")


_Flows = Annotated[tuple[Flow, ...], Meta(max_length=LINKS_MAX)]


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One node's state, as it says. Bounds are checked by `sign` and `open_record`."""

    node: _Node
    name: _Name
    protocol: Annotated[int, Meta(ge=0, le=2**31)] = PROTOCOL
    shardline: _Word
    """The software's version."""
    model: _Word
    """The model's name, for people."""
    fingerprint: _Word
    """The model's identity: equal for equal weights and configuration."""
    blocks: _Blocks
    """The model's blocks, all together."""
    start: _Blocks
    stop: _Blocks
    """This node's blocks are [start, stop)."""
    state: State
    device: _Word
    dtype: _Word
    memory_bytes: _Count
    """The limit this node was given."""
    memory_used_bytes: _Count = 0
    cache_tokens_free: _Count = 0
    cache_tokens_total: _Count = 0
    sessions: _Count = 0
    load: _Share = 0.0
    """Share of the last seconds spent computing."""
    queue: _Count = 0
    """Steps that wait for the engine now."""
    block_steps_per_s: _Rate = 0.0
    """Single-token steps a second through one block, measured; 0 is not known yet."""
    links: _Links = {}
    """Round-trip times in ms to other nodes."""
    flows: _Flows = ()
    """The rest of what is known of these links, in their order; empty is not told."""
    fits: _Blocks = 0
    """How many consecutive blocks the memory has room for; 0 is not told."""
    pinned: bool = False
    """A person chose the span: rebalancing leaves it alone."""
    placed_at_s: _Time = 0.0
    """When this span was taken, by the node's own clock."""
    next_start: _Blocks = 0
    next_stop: _Blocks = 0
    """The node means to move to [next_start, next_stop); 0 and 0 if it stays."""
    sequence: _Count = 0
    """Rises with every record of a node, restarts included."""
    issued_at_s: _Time = 0.0
    expires_at_s: _Time = 0.0
    """Seconds since 1970, UTC, by the node's own clock."""
    addresses: _Addresses = ()
    """Where others can dial this node, best first: HOST:PORT, or an engine's own way to say it
    with the engine's name before (`iroh/...`). Empty: it listens nowhere."""
    through: Annotated[str, Meta(max_length=256, pattern=r"\A[!-~]*\Z")] = ""
    """HOST:PORT of the node through which this one, listening nowhere, is reached now."""

    codecs: _Codecs = ("raw",)
    """The codecs of tensors that this node reads; what goes to it is written in one of them."""

    def __post_init__(self) -> None:
        if not self.start < self.stop <= self.blocks:
            raise ValueError(f"blocks {self.start}:{self.stop} of {self.blocks}")
        if self.next_stop and not self.next_start < self.next_stop <= self.blocks:
            raise ValueError(f"moving to blocks {self.next_start}:{self.next_stop}")
        if not 0 <= self.expires_at_s - self.issued_at_s <= LIFE_MAX_S:
            raise ValueError(f"a life of {self.expires_at_s - self.issued_at_s} s")
        if self.flows and len(self.flows) != len(self.links):
            raise ValueError(f"{len(self.flows)} flows of {len(self.links)} links")

    @property
    def span(self) -> Span:
        """The blocks this node holds or is loading."""
        return Span(self.start, self.stop)

    @property
    def moves_to(self) -> Span | None:
        """The blocks that this node means to move to."""
        return Span(self.next_start, self.next_stop) if self.next_stop else None

    def measured(self) -> Iterator[tuple[NodeId, float, Flow]]:
        """To whom, the round trip in ms, and the rest."""
        flows = self.flows or repeat(Flow(), len(self.links))
        for (node, rtt_ms), flow in zip(self.links.items(), flows, strict=True):
            yield node, rtt_ms, flow


class Foreign(msgspec.Struct, frozen=True):
    """A node that speaks another version of the protocol: all that can be said of it."""

    node: _Node
    name: _Name
    protocol: Annotated[int, Meta(ge=0, le=2**31)]


class _Signed(msgspec.Struct, array_like=True, frozen=True):
    payload: Annotated[bytes, Meta(max_length=RECORD_BYTES_MAX)]
    signature: Annotated[bytes, Meta(min_length=_SIGNATURE_BYTES, max_length=_SIGNATURE_BYTES)]


_encoder = msgspec.msgpack.Encoder()
_envelopes = msgspec.msgpack.Decoder(_Signed)
_headers = msgspec.msgpack.Decoder(Foreign)
_records = msgspec.msgpack.Decoder(NodeRecord)


def check_name(name: str) -> str:
    """The same name if a record can carry it; raises BadInput."""
    try:
        return msgspec.convert(name, _Name)
    except msgspec.ValidationError:
        raise BadInput(
            f"{name!r} is no name for a node: at most {NAME_CHARS_MAX} printable characters"
        ) from None


def renew(record: NodeRecord, *, now_s: float, life_s: float) -> NodeRecord:
    """The record's next issue. Its sequence follows the clock, so a restart does not fall back."""
    sequence = max(record.sequence + 1, int(now_s * 1000))
    return msgspec.structs.replace(
        record, sequence=sequence, issued_at_s=now_s, expires_at_s=now_s + life_s
    )


def is_current(record: NodeRecord, now_s: float) -> bool:
    """Whether the record counts now, with CLOCK_SKEW_S of patience on either side."""
    return record.issued_at_s - CLOCK_SKEW_S <= now_s < record.expires_at_s + CLOCK_SKEW_S


def sign(record: NodeRecord, signer: Signer) -> bytes:
    """The record as bytes that anyone can check; raises ValueError for one nobody would accept."""
    if record.node != signer.node_id:
        raise ValueError("a node signs its own record only")
    payload = _encoder.encode(record)
    _records.decode(payload)  # bounds are checked on decoding only
    data = _encoder.encode(_Signed(payload, signer.sign(_CONTEXT + payload)))
    if len(data) > RECORD_BYTES_MAX:
        raise ValueError(f"a record of {len(data)} bytes is larger than {RECORD_BYTES_MAX}")
    return data


def open_record(data: bytes) -> NodeRecord | Foreign:
    """What `sign` wrote, checked: size, signature, version, bounds; raises PeerFault.

    Expiry is the caller's to judge (`is_current`).
    """
    if len(data) > RECORD_BYTES_MAX:
        raise PeerFault(f"a record of {len(data)} bytes is larger than {RECORD_BYTES_MAX}")
    try:
        signed = _envelopes.decode(data)
        header = _headers.decode(signed.payload)
        if not verify(header.node, _CONTEXT + signed.payload, signed.signature):
            raise PeerFault(f"a record of {header.node} is not signed by it")
        if header.protocol != PROTOCOL:
            return header
        return _records.decode(signed.payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerFault(f"a record cannot be read: {error}") from None
