"""What two nodes say to each other: msgspec tagged structs, every field bounded.

A message travels with `segments`, opaque byte strings that are the codec's business. A session's
route is laid by `Open`, hop by hop; `Step` goes down the chain and `Result` or `Failed` straight
back to the caller (decisions 0003, 0009, 0010).
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from shardline.core.ids import NodeId, SessionId

__all__ = [
    "BLOCK_DEFAULT",
    "BLOCK_MAX",
    "BLOCK_MIN",
    "BURST_BYTES_MAX",
    "COUNT_MAX",
    "DIGEST_BYTES",
    "EVERY_STEP",
    "PREFIX_PAGES_MAX",
    "Close",
    "Failed",
    "Message",
    "Open",
    "Opened",
    "Ping",
    "Pong",
    "Reroute",
    "Result",
    "Spent",
    "Step",
    "decode_message",
    "encode_message",
]

COUNT_MAX: Final = 2**31 - 1
"""No count in a message is greater."""
EVERY_STEP: Final = COUNT_MAX
"""No step has a greater number."""
TEXT_MAX: Final = 2_000
"""Characters of an error's text that cross the wire."""
BURST_BYTES_MAX: Final = 2**19
"""Of a burst that clocks a link: more clocks faster links better and costs slow ones more."""
PROOF_BYTES: Final = 32
DIGEST_BYTES: Final = 16
PREFIX_PAGES_MAX: Final = 256
"""Pages of a prompt that a session can begin with; what is beyond is computed."""
BLOCK_DEFAULT: Final = 4_096
BLOCK_MIN: Final = 64
BLOCK_MAX: Final = 65_536
"""Elements that share a scale where a codec has scales; as in `codec`, which this room must not
import: a test holds them equal."""

_Node = Annotated[NodeId, Meta(pattern="^[0-9a-f]{64}$")]
_Session = Annotated[SessionId, Meta(pattern="^[0-9a-f]{32}$")]
_Name = Annotated[str, Meta(max_length=128)]
_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
_Wire = Annotated[str, Meta(max_length=16, pattern=r"\A[a-z0-9_]*\Z")]
_Block = Annotated[int, Meta(ge=BLOCK_MIN, le=BLOCK_MAX)]
_Digest = Annotated[bytes, Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
_Pages = Annotated[int, Meta(ge=0, le=PREFIX_PAGES_MAX)]
_Nonce = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Message(msgspec.Struct, frozen=True, array_like=True):
    """Fields go by position: a later version may append fields, never move them."""


class Spent(_Message, frozen=True):
    """What one node computed and sent on for one step; `node` is a short id.

    It wrote its hidden states in the codec `wire`, which took `saved_bytes` less than raw.
    `beside` tokens of other sessions were computed together with the step's last ones.
    """

    node: Annotated[str, Meta(max_length=16)]
    compute_us: Annotated[int, Meta(ge=0, lt=2**53)]
    sent_bytes: Annotated[int, Meta(ge=0, lt=2**53)] = 0
    wire: _Wire = "raw"
    saved_bytes: Annotated[int, Meta(ge=0, lt=2**53)] = 0
    beside: Annotated[int, Meta(ge=0, lt=2**53)] = 0


_Spending = Annotated[list[Spent], Meta(max_length=1_024)]


class Open(_Message, tag="open", frozen=True):
    """Take a seat at a node: it runs blocks [start, stop) of the model with this fingerprint.

    `next` is who gets the outputs (None: the caller, as a Result); `tokens` is the most tokens a
    row of this session will hold, `batch` its rows. `fresh` says that the next node's cache has to
    be filled too, so that replayed steps go on to it. A seat that the same caller has taken before
    starts anew. Hidden states may cross to `next` in the codec `wire` at the coarsest, with a scale
    for each `block` elements at most (decision 0018). `prefix` names the first pages of the
    session's tokens, each by a digest of all up to its end (decision 0023).
    """

    session: _Session
    caller: _Node
    model: _Name
    start: _Count
    stop: _Count
    next: _Node | None
    tokens: _Count
    batch: _Count
    fresh: bool = False
    wire: _Wire = "raw"
    block: _Block = BLOCK_DEFAULT
    prefix: Annotated[list[_Digest], Meta(max_length=PREFIX_PAGES_MAX)] = []


class Opened(_Message, tag="opened", frozen=True):
    """The node is ready for the first step at this seat; it holds the first `pages` of its prefix.

    They stay until the first step, which says whether they are used.
    """

    session: _Session
    node: _Node
    start: _Count
    pages: _Pages = 0


class Step(_Message, tag="step", frozen=True):
    """One forward pass through the chain; the segments are the inputs of the span at `start`.

    A replayed step only fills the cache of a node that took over: its outputs are known already.
    Step 1 may stand on `attach` pages of the prefix that was named, instead of on step 0. As many
    steps as `behind` says come right after it, of other sessions but from the same sender: a round
    of theirs. `slowest_us` is what the chain's slowest node took for the session's last token, as
    its caller was told; 0 says that nobody knows.
    """

    session: _Session
    start: _Count
    step: _Count
    caller: _Node
    spent: _Spending
    replay: bool = False
    attach: _Pages = 0
    behind: _Count = 0
    slowest_us: _Count = 0


class Result(_Message, tag="result", frozen=True):
    """The last span's outputs, for the caller."""

    session: _Session
    step: _Count
    spent: _Spending


class Failed(_Message, tag="failed", frozen=True):
    """A node could not do a step (None: could not open); `kind` is an error's class name."""

    session: _Session
    step: _Count | None
    node: _Node
    kind: Annotated[str, Meta(max_length=64)]
    text: Annotated[str, Meta(max_length=TEXT_MAX)]
    about: _Node | None = None
    """The node that is to blame, where it is not the one that says so."""

    @classmethod
    def of(
        cls,
        session: SessionId,
        step: int | None,
        node: NodeId,
        error: Exception,
        about: NodeId | None = None,
    ) -> Failed:
        """This error as a message; a long text is cut to what may cross."""
        kind, text = type(error).__name__[:64], str(error)[:TEXT_MAX]
        return cls(session, step, node, kind, text, about)


class Reroute(_Message, tag="reroute", frozen=True):
    """From the caller: the seat at `start` sends to `next` from now on.

    All that was sent from there is sent again first, so that the new node fills its cache; but it
    knows the steps before `since` already (EVERY_STEP: nothing is sent again). With `also`, `next`
    is a standby, or who gets the steps anyhow, for none: it is sent every step too, as a replay.
    Hidden states may cross to it in the codec `wire` at the coarsest.
    """

    session: _Session
    start: _Count
    next: _Node
    since: _Count = 0
    also: bool = False
    wire: _Wire = "raw"


class Close(_Message, tag="close", frozen=True):
    """The session is over at this seat (None: at all of them): free what it holds."""

    session: _Session
    start: _Count | None = None


class Ping(_Message, tag="ping", frozen=True):
    """Answered with a Pong of the same nonce.

    Its segment, if there is one, is a burst (`bursts.py`); `want_bytes` asks for one back.
    """

    nonce: _Nonce
    want_bytes: Annotated[int, Meta(ge=0, le=BURST_BYTES_MAX)] = 0


class Pong(_Message, tag="pong", frozen=True):
    """The answer to a Ping: with the burst that was wanted, or with proof that all of one came.

    With neither, to a Ping about a burst, it says: not now.
    """

    nonce: _Nonce
    proof: Annotated[bytes, Meta(max_length=PROOF_BYTES)] = b""


Message = Open | Opened | Step | Result | Failed | Reroute | Close | Ping | Pong

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode_message(message: Message) -> bytes:
    """The message in MessagePack."""
    return _encoder.encode(message)


def decode_message(data: bytes | memoryview) -> Message:
    """The message in `data`; raises msgspec.MsgspecError, or UnicodeDecodeError."""
    return _decoder.decode(data)
