from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.core.errors import PeerFault
from shardline.wire.sealing import Opener, Sealer

KEY = bytes(range(32))


def seal(sealer: Sealer, *parts: bytes) -> bytearray:
    return bytearray(sealer.seal(parts, sum(map(len, parts))))


@given(st.lists(st.lists(st.binary(max_size=200), max_size=4), max_size=5))
def test_frames_come_out_as_they_went_in(frames: list[list[bytes]]) -> None:
    sealer, opener = Sealer(KEY), Opener(KEY)
    for parts in frames:
        assert opener.open(seal(sealer, *parts)) == b"".join(parts)


def test_a_frame_of_several_pieces_comes_out_as_it_went_in() -> None:
    parts = (b"head", bytes(range(256)) * 16_000, b"tail")
    assert Opener(KEY).open(seal(Sealer(KEY), *parts)) == b"".join(parts)


LARGE = bytes(range(256)) * 1_100  # beyond what is sealed in one call


@given(st.binary(max_size=100) | st.just(LARGE), st.data())
def test_any_change_is_a_peers_fault(plain: bytes, data: st.DataObject) -> None:
    sealed = seal(Sealer(KEY), plain)
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(PeerFault):
        Opener(KEY).open(sealed)


@given(st.binary(max_size=100) | st.just(LARGE), st.data())
def test_a_cut_or_lengthened_frame_is_a_peers_fault(plain: bytes, data: st.DataObject) -> None:
    sealed = seal(Sealer(KEY), plain)
    with pytest.raises(PeerFault):
        Opener(KEY).open(sealed[: data.draw(st.integers(0, len(sealed) - 1))])
    with pytest.raises(PeerFault):
        Opener(KEY).open(sealed + b"\0")


def test_a_replayed_frame_is_a_peers_fault() -> None:
    opener, sealed = Opener(KEY), seal(Sealer(KEY), b"pay once")
    opener.open(sealed)
    with pytest.raises(PeerFault, match="order"):
        opener.open(sealed)


def test_a_frame_out_of_order_is_a_peers_fault() -> None:
    sealer = Sealer(KEY)
    seal(sealer, b"first")
    with pytest.raises(PeerFault, match="order"):
        Opener(KEY).open(seal(sealer, b"second"))


def test_two_frames_of_the_same_bytes_look_different() -> None:
    sealer = Sealer(KEY)
    assert seal(sealer, b"same") != seal(sealer, b"same")


@pytest.mark.parametrize("plain", [b"tensor", LARGE], ids=["small", "large"])
def test_what_is_received_can_be_written_to(plain: bytes) -> None:
    assert not Opener(KEY).open(seal(Sealer(KEY), plain)).readonly


def test_parts_that_are_not_as_long_as_announced_are_our_bug() -> None:
    with pytest.raises(ValueError, match="announced"):
        Sealer(KEY).seal((LARGE,), len(LARGE) + 1)
