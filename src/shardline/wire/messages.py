"""What two nodes say to each other: msgspec tagged structs, every field bounded.

A message travels with `segments`, opaque byte strings that are the codec's business. A session's
route is laid by `Open`, hop by hop; `Step` goes down the chain and `Result` or `Failed` straight
back to the caller (DESIGN section 5).
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from shardline.core.ids import NodeId, SessionId

__all__ = [
    "Close",
    "Failed",
    "Message",
    "Open",
    "Opened",
    "Ping",
    "Pong",
    "Result",
    "Spent",
    "Step",
    "decode_message",
    "encode_message",
]

TEXT_MAX: Final = 2_000
"""Characters of an error's text that cross the wire."""

_Node = Annotated[NodeId, Meta(pattern="^[0-9a-f]{64}$")]
_Session = Annotated[SessionId, Meta(pattern="^[0-9a-f]{32}$")]
_Name = Annotated[str, Meta(max_length=128)]
_Count = Annotated[int, Meta(ge=0, lt=2**31)]
_Nonce = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Message(msgspec.Struct, frozen=True, array_like=True):
    """Fields go by position: a later version may append fields, never move them."""


class Spent(_Message, frozen=True):
    """What one node computed and sent on for one step; `node` is a short id."""

    node: Annotated[str, Meta(max_length=16)]
    compute_us: Annotated[int, Meta(ge=0, lt=2**53)]
    sent_bytes: Annotated[int, Meta(ge=0, lt=2**53)] = 0


_Spending = Annotated[list[Spent], Meta(max_length=1_024)]


class Open(_Message, tag="open", frozen=True):
    """Lay a session at a node: it runs blocks [start, stop) of the model with this fingerprint.

    `next` is who gets the outputs (None: the caller, as a Result); `tokens` is the most tokens a
    row of this session will hold, `batch` its rows.
    """

    session: _Session
    caller: _Node
    model: _Name
    start: _Count
    stop: _Count
    next: _Node | None
    tokens: _Count
    batch: _Count


class Opened(_Message, tag="opened", frozen=True):
    """The node is ready for the session's first step."""

    session: _Session
    node: _Node


class Step(_Message, tag="step", frozen=True):
    """One forward pass through the chain; the segments are the span's inputs."""

    session: _Session
    step: _Count
    spent: _Spending


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

    @classmethod
    def of(cls, session: SessionId, step: int | None, node: NodeId, error: Exception) -> Failed:
        """This error as a message; a long text is cut to what may cross."""
        return cls(session, step, node, type(error).__name__[:64], str(error)[:TEXT_MAX])


class Close(_Message, tag="close", frozen=True):
    """The session is over: free what it holds."""

    session: _Session


class Ping(_Message, tag="ping", frozen=True):
    """Answered with a Pong of the same nonce."""

    nonce: _Nonce


class Pong(_Message, tag="pong", frozen=True):
    """The answer to a Ping."""

    nonce: _Nonce


Message = Open | Opened | Step | Result | Failed | Close | Ping | Pong

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode_message(message: Message) -> bytes:
    """The message in MessagePack."""
    return _encoder.encode(message)


def decode_message(data: bytes | memoryview) -> Message:
    """The message in `data`; raises msgspec.MsgspecError, or UnicodeDecodeError."""
    return _decoder.decode(data)
