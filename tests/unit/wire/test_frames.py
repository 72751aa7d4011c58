from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.core.errors import PeerFault, StepFailed, Unsupported
from shardline.core.ids import NodeId, SessionId
from shardline.wire import (
    DIGEST_BYTES,
    PREFIX_PAGES_MAX,
    SEGMENTS_MAX,
    Close,
    Failed,
    Message,
    Open,
    Opened,
    Ping,
    Pong,
    Reroute,
    Result,
    Spent,
    Step,
    decode_frame,
    encode_frame,
)
from shardline.wire.frames import MESSAGES_MAX, SHARED_BYTES_MAX

NODE = NodeId("ab" * 32)
SESSION = SessionId("cd" * 16)

counts = st.integers(0, 2**31 - 1)
pages = st.integers(0, PREFIX_PAGES_MAX)
spending = st.lists(st.builds(Spent, st.text(max_size=16), st.integers(0, 2**53 - 1)), max_size=5)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        Open,
        st.just(SESSION),
        st.just(NODE),
        st.text(max_size=128),
        counts,
        counts,
        st.sampled_from([None, NODE]),
        counts,
        counts,
        st.booleans(),
        prefix=st.lists(st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES), max_size=5),
    ),
    st.builds(Opened, st.just(SESSION), st.just(NODE), counts, pages),
    st.builds(
        Step, st.just(SESSION), counts, counts, st.just(NODE), spending, st.booleans(), pages
    ),
    st.builds(Reroute, st.just(SESSION), counts, st.just(NODE)),
    st.builds(Result, st.just(SESSION), counts, spending),
    st.builds(
        Failed,
        st.just(SESSION),
        st.none() | counts,
        st.just(NODE),
        st.text(max_size=64),
        st.text(max_size=2_000),
    ),
    st.builds(Close, st.just(SESSION), st.none() | counts),
    st.builds(Ping, st.integers(0, 2**63 - 1)),
    st.builds(Pong, st.integers(0, 2**63 - 1)),
)
segments = st.lists(st.binary(max_size=100), max_size=6)


def frame_of(message: Message, parts: list[bytes]) -> bytes:
    frame = encode_frame(message, parts)
    joined = b"".join(frame.parts)
    assert len(joined) == frame.size_bytes
    return joined


@given(messages, segments)
def test_a_frame_gives_its_message_and_segments_back(message: Message, sent: list[bytes]) -> None:
    assert decode_frame(bytearray(frame_of(message, sent))) == [(message, sent)]


@given(st.lists(st.tuples(messages, segments), min_size=1, max_size=8))
def test_messages_behind_each_other_are_one_frame(sent: list[tuple[Message, list[bytes]]]) -> None:
    frame = b"".join(frame_of(*one) for one in sent)
    assert decode_frame(bytearray(frame)) == sent


@given(st.lists(st.tuples(messages, segments), min_size=2, max_size=4), st.data())
def test_a_changed_frame_of_several_is_refused_or_read_within_it(
    sent: list[tuple[Message, list[bytes]]], data: st.DataObject
) -> None:
    frame = bytearray(b"".join(frame_of(*one) for one in sent))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    cut = frame[: data.draw(st.integers(0, len(frame)))]
    try:
        found = decode_frame(cut)
    except PeerFault:
        return
    assert sum(len(part) for _, parts in found for part in parts) <= len(cut)


def test_only_so_many_messages_are_in_a_frame() -> None:
    one = frame_of(Ping(1), [])
    assert len(decode_frame(one * MESSAGES_MAX)) == MESSAGES_MAX
    with pytest.raises(PeerFault, match="more than"):
        decode_frame(one * (MESSAGES_MAX + 1))


def test_messages_that_share_a_frame_are_small_together() -> None:
    most = frame_of(Ping(1), [bytes(SHARED_BYTES_MAX)])
    assert len(decode_frame(most)) == 1
    with pytest.raises(PeerFault, match="with several messages"):
        decode_frame(most + frame_of(Ping(2), []))
    with pytest.raises(PeerFault, match="with several messages"):
        decode_frame(frame_of(Ping(2), []) + most)


def test_what_is_kept_of_one_message_keeps_no_memory_of_others() -> None:
    frame = bytearray(frame_of(Ping(1), [b"abc"]) + frame_of(Ping(2), [bytes(1_000)]))
    (_, (mine,)), (_, (other,)) = decode_frame(frame)
    assert mine.obj is not frame
    assert mine.obj is not other.obj
    mine[0] = ord("x")
    assert (bytes(mine), len(other)) == (b"xbc", 1_000)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_frame_or_a_peers_fault(data: bytes) -> None:
    with pytest.raises(PeerFault):
        decode_frame(data)


@given(messages, segments, st.data())
def test_a_frame_that_is_cut_or_lengthened_is_a_peers_fault(
    message: Message, sent: list[bytes], data: st.DataObject
) -> None:
    frame = frame_of(message, sent)
    with pytest.raises(PeerFault):
        decode_frame(frame[: data.draw(st.integers(0, len(frame) - 1))])
    with pytest.raises(PeerFault):
        decode_frame(frame + b"\0")


@given(messages, segments, st.data())
def test_a_changed_header_is_refused_or_read_within_the_frame(
    message: Message, sent: list[bytes], data: st.DataObject
) -> None:
    frame = bytearray(frame_of(message, sent))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        ((_, received),) = decode_frame(frame)
    except PeerFault:
        return
    assert sum(map(len, received)) <= len(frame)


def test_segments_are_writable_aligned_views_of_the_frame() -> None:
    frame = bytearray(frame_of(Ping(1), [b"abc", b"defgh"]))
    ((_, received),) = decode_frame(frame)
    received[1][0] = ord("x")
    assert frame.count(b"xefgh") == 1
    assert frame.index(b"xefgh") % 16 == 0


def test_a_length_beyond_the_frame_is_refused_before_it_is_used() -> None:
    head = struct.pack("<IIQ", 0, 1, 2**63)
    with pytest.raises(PeerFault, match="says that it has"):
        decode_frame(head)
    with pytest.raises(PeerFault, match="segments"):
        decode_frame(struct.pack("<II", 0, 2**32 - 1))


def test_an_oversized_frame_is_refused_on_both_sides() -> None:
    with pytest.raises(Unsupported, match="fewer tokens"):
        encode_frame(Ping(1), [bytes(1_000)], frame_bytes_max=512)
    with pytest.raises(PeerFault):
        decode_frame(frame_of(Ping(1), [bytes(1_000)]), frame_bytes_max=512)
    with pytest.raises(Unsupported):
        encode_frame(Ping(1), [b""] * (SEGMENTS_MAX + 1))


@pytest.mark.parametrize(
    "message",
    [
        Opened(SESSION, NodeId("not a key"), 0),
        Close(SessionId("G" * 32)),
        Step(SESSION, 0, -1, NODE, []),
        Ping(-1),
        Step(SESSION, 0, 0, NODE, [Spent("x" * 17, 1)]),
        Failed(SESSION, 0, NODE, "kind", "x" * 2_001),
        Step(SESSION, 0, 0, NODE, [Spent("x", 1, wire="int8\x1b")]),
        Open(SESSION, NODE, "m", 0, 1, None, 1, 1, wire="x" * 17),
        Open(SESSION, NODE, "m", 0, 1, None, 1, 1, block=63),
        Reroute(SESSION, 0, NODE, wire="in t8"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_field_out_of_bounds_is_a_peers_fault(message: Message) -> None:
    with pytest.raises(PeerFault, match="cannot be read"):
        decode_frame(frame_of(message, []))


def test_padding_that_hides_something_is_a_peers_fault() -> None:
    frame = bytearray(frame_of(Ping(1), [b"abc"]))
    frame[-1] = 1
    with pytest.raises(PeerFault, match="padding"):
        decode_frame(frame)


def test_a_failure_carries_its_errors_name_and_a_text_that_fits() -> None:
    failed = Failed.of(SESSION, None, NODE, StepFailed("y" * 5_000))
    assert (failed.kind, len(failed.text)) == ("StepFailed", 2_000)
    assert decode_frame(frame_of(failed, [])) == [(failed, [])]
