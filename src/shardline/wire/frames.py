"""Messages with their segments in one frame, and back; sans-I/O.

    u32 message bytes · u32 segments · u64 bytes of each segment · message · segments

and so on for the next message. Integers are little-endian. Zeros pad each message and segment to 16
bytes, so that a received segment is aligned for any tensor. All lengths are in front and are
checked against the bounds and against what is left of the frame before anything else is read: a
frame has one reading.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from shardline.core.errors import PeerFault, Unsupported
from shardline.core.units import format_bytes
from shardline.wire.messages import Message, decode_message, encode_message

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "FRAME_BYTES_MAX",
    "HEADER_BYTES_MAX",
    "MESSAGES_MAX",
    "SEGMENTS_MAX",
    "SHARED_BYTES_MAX",
    "Frame",
    "decode_frame",
    "encode_frame",
]

FRAME_BYTES_MAX: Final = 256 * 2**20
"""A prefill of 8,000 tokens of hidden size 16,384 in bfloat16 fits; more memory, longer prompts."""
HEADER_BYTES_MAX: Final = 64 * 2**10
"""The message alone; a Step that a thousand nodes have signed their time into is below."""
SEGMENTS_MAX: Final = 4_096
"""Of one message."""
MESSAGES_MAX: Final = 64
"""In one frame: a round's. More share a frame's cost among more, and hold the event loop longer."""
SHARED_BYTES_MAX: Final = 60 * 2**10
"""Of a frame with several messages: transports take 64 KiB without a wait."""

ALIGN: Final = 16
_LENGTHS = struct.Struct("<II")
_ZEROS = bytes(ALIGN)


@dataclass(frozen=True, slots=True)
class Frame:
    """Buffers to send one after the other, and their length together."""

    parts: tuple[bytes | memoryview, ...]
    size_bytes: int


def _padding(size: int) -> int:
    return -size % ALIGN


def encode_frame(
    message: Message,
    segments: Sequence[bytes | bytearray | memoryview] = (),
    *,
    frame_bytes_max: int = FRAME_BYTES_MAX,
) -> Frame:
    """The frame of this message; segments are not copied: keep them unchanged until it is sent.

    Raises Unsupported if a bound is passed.
    """
    body = encode_message(message)
    views = [memoryview(segment).cast("B") for segment in segments]
    head = b"".join(
        (
            _LENGTHS.pack(len(body), len(views)),
            struct.pack(f"<{len(views)}Q", *[view.nbytes for view in views]),
            body,
        )
    )
    parts: list[bytes | memoryview] = [head + _ZEROS[: _padding(len(head))]]
    size = len(parts[0])
    for view in views:
        parts.append(view)
        size += view.nbytes
        if padding := _padding(view.nbytes):
            parts.append(_ZEROS[:padding])
            size += padding
    if size > frame_bytes_max or len(body) > HEADER_BYTES_MAX or len(views) > SEGMENTS_MAX:
        raise Unsupported(
            f"{format_bytes(size)} in {len(views)} tensors do not fit one frame "
            f"of {format_bytes(frame_bytes_max)}: send fewer tokens at once"
        )
    return Frame(tuple(parts), size)


def decode_frame(
    frame: bytes | bytearray | memoryview, *, frame_bytes_max: int = FRAME_BYTES_MAX
) -> list[tuple[Message, list[memoryview]]]:
    """The messages and their segments; raises PeerFault for anything else.

    A lone message's segments are views of the frame. Those of several are copied, so that what is
    kept of one keeps no memory of another's.
    """
    view = memoryview(frame)
    if not _LENGTHS.size <= len(view) <= frame_bytes_max:
        raise PeerFault(f"a frame of {len(view)} bytes")
    found: list[tuple[Message, list[memoryview]]] = []
    at = 0
    while at < len(view):
        if len(found) == MESSAGES_MAX:
            raise PeerFault(f"a frame with more than {MESSAGES_MAX} messages")
        at, message, segments = _decode_one(view, at)
        if at < len(view) and len(view) > SHARED_BYTES_MAX:
            raise PeerFault(f"a frame of {len(view)} bytes with several messages")
        found.append((message, segments))
    if len(found) == 1:
        return found
    return [(message, [memoryview(bytearray(one)) for one in views]) for message, views in found]


def _decode_one(view: memoryview, start: int) -> tuple[int, Message, list[memoryview]]:
    """Where the message that begins here ends, and what it is."""
    left = len(view) - start
    if left < _LENGTHS.size:
        raise PeerFault(f"a frame with {left} bytes too many")
    body_bytes, count = _LENGTHS.unpack_from(view, start)
    table = start + _LENGTHS.size
    if (
        body_bytes > HEADER_BYTES_MAX
        or count > SEGMENTS_MAX
        or _LENGTHS.size + 8 * count + body_bytes > left
    ):
        raise PeerFault(f"a frame with {body_bytes} header bytes and {count} segments")
    sizes: tuple[int, ...] = struct.unpack_from(f"<{count}Q", view, table)
    body = table + 8 * count
    end = body + body_bytes
    gaps = [(end, end := end + _padding(end))]
    segments: list[tuple[int, int]] = []
    for size in sizes:
        stop = end + size
        segments.append((end, stop))
        gaps.append((stop, end := stop + _padding(stop)))
    if end > len(view):
        raise PeerFault(f"a frame of {len(view)} bytes says that it has {end}")
    if any(bytes(view[stop:upto]) != _ZEROS[: upto - stop] for stop, upto in gaps):
        raise PeerFault("a frame's padding is not empty")
    try:
        message = decode_message(view[body : body + body_bytes])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerFault(f"a message cannot be read: {error}") from None
    return end, message, [view[first:stop] for first, stop in segments]
