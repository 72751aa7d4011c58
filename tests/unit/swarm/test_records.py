from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.core.errors import BadInput, PeerFault
from shardline.core.ids import PROTOCOL
from shardline.swarm import (
    CLOCK_SKEW_S,
    LINKS_TOLD,
    PINGS_KEPT,
    Flow,
    Foreign,
    Identity,
    NodeRecord,
    check_name,
    is_current,
    open_record,
    renew,
    sign,
)
from shardline.swarm.records import LINKS_MAX, RECORD_BYTES_MAX
from tests.unit.swarm.making import NOW_S, node_id, record

ME = Identity.ephemeral()
FULL = Flow(2**32 - 1, 2**32 - 1, PINGS_KEPT, PINGS_KEPT)


def _sign_raw(payload: bytes, signer: Identity = ME) -> bytes:
    return msgspec.msgpack.encode((payload, signer.sign(b"shardline/record\x00" + payload)))


def _forged(**changes: object) -> bytes:
    """A record that is signed well and says something no record may say."""
    return _sign_raw(msgspec.msgpack.encode(msgspec.to_builtins(record(ME.node_id)) | changes))


def test_a_signed_record_opens_as_it_was() -> None:
    mine = record(ME.node_id, name="Dachboden ☂", links={node_id(2): 0.4})
    assert open_record(sign(mine, ME)) == mine


def test_nobody_signs_for_another_node() -> None:
    with pytest.raises(ValueError, match="its own"):
        sign(record(1), ME)


def test_a_record_in_anothers_name_is_refused() -> None:
    other = Identity.ephemeral()
    payload = msgspec.msgpack.encode(record(other.node_id))
    with pytest.raises(PeerFault, match="not signed by it"):
        open_record(_sign_raw(payload, ME))


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_any_changed_byte_is_refused(place: int, change: int) -> None:
    data = bytearray(sign(record(ME.node_id), ME))
    data[place % len(data)] ^= change
    with pytest.raises(PeerFault):
        open_record(bytes(data))


@given(st.binary(max_size=200))
def test_garbage_is_a_peers_fault(data: bytes) -> None:
    for garbage in (data, _sign_raw(data)):
        with pytest.raises(PeerFault):
            open_record(garbage)


def test_an_oversized_record_is_refused_unread() -> None:
    with pytest.raises(PeerFault, match="larger than"):
        open_record(bytes(RECORD_BYTES_MAX + 1))


def test_a_record_with_all_its_links_has_room() -> None:
    links = {node_id(2**255 + number): 1e9 / 7 for number in range(LINKS_MAX)}
    flows = (FULL,) * LINKS_MAX
    word = "\u2603" * 128
    full = record(
        ME.node_id,
        name=word[:64],
        model=word,
        fingerprint=word,
        device=word,
        links=links,
        flows=flows,
        codecs=("0123456789abcdef",) * 8,
    )
    assert open_record(sign(full, ME)) == full


def test_what_is_told_of_a_link_beside_its_round_trip_is_13_bytes_at_most() -> None:
    links = {node_id(number): 1.5 for number in range(LINKS_TOLD)}
    without = record(ME.node_id, links=links)
    flows = (FULL,) * LINKS_TOLD
    grown = len(sign(record(ME.node_id, links=links, flows=flows), ME)) - len(sign(without, ME))
    assert grown == 13 * LINKS_TOLD + 2, "and an array's own length"
    assert sum(ms for _, ms, _ in without.measured()) == 1.5 * LINKS_TOLD
    assert {flow for *_, flow in without.measured()} == {Flow()}


@pytest.mark.parametrize(
    "changes",
    [
        {"codecs": ["raw"] * 9},
        {"codecs": ["0123456789abcdefg"]},
        {"codecs": ["int8\n"]},
        {"name": ""},
        {"name": "x" * 65},
        {"name": "a\x1b[2J"},
        {"name": "a\n"},
        {"name": "a\u202eb"},
        {"model": "m" * 129},
        {"start": 4, "stop": 4},
        {"start": -1},
        {"stop": 9},
        {"blocks": 10**6, "stop": 10**6},
        {"memory_bytes": -1},
        {"load": 1.1},
        {"load": float("nan")},
        {"block_steps_per_s": float("inf")},
        {"state": "asleep"},
        {"sequence": -1},
        {"expires_at_s": NOW_S + 10**6},
        {"expires_at_s": NOW_S - 1},
        {"links": {"me": 1.0}},
        {"links": {node_id(1): 1.0}, "flows": (Flow(), Flow())},
        {"links": {node_id(1): 1.0}, "flows": (Flow(up_kbit_s=2**32),)},
        {"links": {node_id(1): 1.0}, "flows": ((0, 0, 2, 1),)},
        {"links": {node_id(1): 1.0}, "flows": (Flow(late=PINGS_KEPT, pings=PINGS_KEPT + 1),)},
        {"links": {node_id(1): -1.0}},
        {"links": {node_id(number): 1.0 for number in range(LINKS_MAX + 1)}},
    ],
)
def test_a_record_out_of_bounds_is_refused_on_both_sides(changes: dict[str, Any]) -> None:
    with pytest.raises(PeerFault, match="cannot be read"):
        open_record(_forged(**changes))
    if "state" not in changes:
        with pytest.raises(ValueError, match=r"."):
            sign(record(ME.node_id, **changes), ME)


def test_a_later_versions_new_field_is_passed_over() -> None:
    assert isinstance(open_record(_forged(reputation=0.7)), NodeRecord)


def test_another_protocol_version_is_named_whatever_else_it_says() -> None:
    later = {"node": ME.node_id, "name": "cellar", "protocol": PROTOCOL + 1, "span": "all"}
    found = open_record(_sign_raw(msgspec.msgpack.encode(later)))
    assert found == Foreign(ME.node_id, "cellar", PROTOCOL + 1)


def test_another_protocol_version_must_sign_too() -> None:
    payload = msgspec.msgpack.encode(Foreign(ME.node_id, "cellar", PROTOCOL + 1))
    with pytest.raises(PeerFault, match="not signed"):
        open_record(_sign_raw(payload, Identity.ephemeral()))


def test_a_record_counts_for_its_life_and_the_clocks_skew() -> None:
    mine = record(1)
    for now_s, counts in [
        (mine.issued_at_s - CLOCK_SKEW_S - 0.1, False),
        (mine.issued_at_s - CLOCK_SKEW_S, True),
        (mine.expires_at_s, True),
        (mine.expires_at_s + CLOCK_SKEW_S - 0.1, True),
        (mine.expires_at_s + CLOCK_SKEW_S, False),
    ]:
        assert is_current(mine, now_s) is counts


def test_each_issue_has_a_higher_sequence_after_a_restart_and_a_clock_set_back_too() -> None:
    first = renew(record(1, sequence=0), now_s=NOW_S, life_s=60)
    second = renew(first, now_s=NOW_S - 100, life_s=60)
    restarted = renew(record(1, sequence=0), now_s=NOW_S + 1, life_s=60)
    assert first.sequence < second.sequence < restarted.sequence
    assert (second.issued_at_s, second.expires_at_s) == (NOW_S - 100, NOW_S - 40)


def test_a_name_that_no_record_can_carry_is_refused() -> None:
    assert check_name("attic 2") == "attic 2"
    for name in ("", "x" * 65, "a\tb"):
        with pytest.raises(BadInput, match="no name for a node"):
            check_name(name)
