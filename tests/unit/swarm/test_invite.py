from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.core.errors import BadInput, BadInvite, InviteExpired
from shardline.swarm import Invite, InviteStore
from shardline.swarm.directories.dht_names import peer_id
from shardline.swarm.invite import TEXT_CHARS_MAX, check_address
from tests.unit.swarm.making import NOW_S, HandClock

if TYPE_CHECKING:
    from pathlib import Path

invites = st.builds(
    Invite,
    swarm_id=st.binary(min_size=8, max_size=8).map(bytes.hex),
    bootstrap=st.lists(
        st.sampled_from(["127.0.0.1:7000", "[::1]:1", "attic.example.org:65535"]), max_size=8
    ).map(tuple),
    secret=st.binary(min_size=16, max_size=16),
    expires_at_s=st.none() | st.integers(int(NOW_S) + 1, 2**32 - 1),
    nat=st.sampled_from([None, "none", "https://relay.example.org:1"]),
)
DHT_NAME = peer_id(bytes(32))


def _with_names(invite: Invite) -> Invite:
    named = tuple(f"{address.replace('65535', '65534')}/{DHT_NAME}" for address in invite.bootstrap)
    return replace(invite, bootstrap=named, directory="dht")


@given(invites | invites.map(_with_names))
def test_an_invite_survives_being_written_down(invite: Invite) -> None:
    text = invite.encode()
    assert Invite.parse(text, clock=HandClock()) == invite
    assert Invite.parse(f"  {text[:20]}\n{text[20:].upper()}\n", clock=HandClock()) == invite


@given(invites, st.data())
def test_a_mistyped_invite_says_so(invite: Invite, data: st.DataObject) -> None:
    text = invite.encode()
    place = data.draw(st.integers(4, len(text) - 1))
    other = data.draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz23456789-!é"))
    mistyped = text[:place] + other + text[place + 1 :]
    if mistyped != text:
        with pytest.raises(BadInvite, match="mistyped"):
            Invite.parse(mistyped, clock=HandClock())


@given(invites, st.integers(1, 50))
def test_a_cut_invite_says_so(invite: Invite, cut: int) -> None:
    with pytest.raises(BadInvite, match="cut short"):
        Invite.parse(invite.encode()[:-cut], clock=HandClock())


@given(st.text(max_size=300) | st.text(max_size=300).map("sl1-".__add__))
def test_no_text_gets_more_than_one_line(text: str) -> None:
    with pytest.raises(BadInvite) as caught:
        Invite.parse(text)
    assert "\n" not in str(caught.value)


def test_an_invite_of_a_later_version_is_named() -> None:
    with pytest.raises(BadInvite, match="version sl2: this shardline reads sl1"):
        Invite.parse("sl2-abcdef")


def test_an_invite_is_short() -> None:
    assert len(Invite.new(("192.168.100.100:7000",)).encode()) < 100


def test_the_longest_invite_can_be_read() -> None:
    places = tuple(f"{'h' * 99}{digit}:10000" for digit in range(8))
    relay = f"https://{'h' * 80}:10000/"
    invite = Invite.new(places, 10**8, nat=relay, directory="dht")
    assert len(invite.encode()) <= TEXT_CHARS_MAX
    assert Invite.parse(invite.encode()) == invite


def test_who_finds_the_nodes_must_be_known() -> None:
    with pytest.raises(BadInput, match="write zenoh or dht"):
        Invite.new(directory="memory")


def test_an_expired_invite_says_when() -> None:
    invite = Invite.new(("h:1",), 60, clock=HandClock())
    assert Invite.parse(invite.encode(), clock=HandClock(NOW_S + 59)) == invite
    with pytest.raises(InviteExpired, match="expired on 2027-01-15 08:01 UTC"):
        Invite.parse(invite.encode(), clock=HandClock(NOW_S + 60))


def test_an_edited_expiry_opens_another_swarm() -> None:
    invite = Invite.new(("h:1",), 60, clock=HandClock())
    for expires_at_s in (int(NOW_S) + 61, None):
        edited = replace(invite, expires_at_s=expires_at_s)
        assert edited.membership_key != invite.membership_key
        assert edited.prefix != invite.prefix
        assert edited.derive("tls authority", 48) != invite.derive("tls authority", 48)


def test_addresses_can_be_edited() -> None:
    invite = Invite.new(tuple(f"h:{port}" for port in range(1, 9)))
    mine = invite.with_bootstrap("me:1")
    assert mine.bootstrap == ("me:1", *invite.bootstrap[:7])
    assert mine.membership_key == invite.membership_key
    assert mine.prefix == invite.prefix
    assert mine.with_bootstrap("h:3").bootstrap == (
        "h:3",
        "me:1",
        "h:1",
        "h:2",
        *mine.bootstrap[4:],
    )


def test_nothing_shows_the_secret() -> None:
    invite = Invite.new(("h:1",))
    for shown in (repr(invite), str(invite), f"{invite}", invite.prefix):
        assert invite.secret.hex() not in shown
        assert repr(invite.secret) not in shown
        assert base64.b32encode(invite.secret).decode().lower()[:8] not in shown


def test_what_is_derived_does_not_repeat_itself() -> None:
    invite = Invite.new()
    keys = {invite.membership_key, invite.derive("tls authority", 32), invite.secret}
    assert len(keys) == 3
    assert invite.membership_key != Invite.new().membership_key


@pytest.mark.parametrize(
    "address",
    [
        *("", "host", "host:", ":7000", "host:0", "host:65536", "a b:1", "h:1,h:2", "h:1\n"),
        *("h:1/", "h:1/me", f"h:65535/{DHT_NAME}", f"h:1/{DHT_NAME}/", f"h/{DHT_NAME}"),
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(BadInput, match="write HOST:PORT"):
        Invite.new((address,))


def test_to_listen_port_0_is_any() -> None:
    assert check_address("127.0.0.1:0", port_min=0) == "127.0.0.1:0"


@pytest.mark.parametrize("expires_in_s", [0, -1, float("nan"), 1e300])
def test_an_impossible_life_is_refused(expires_in_s: float) -> None:
    with pytest.raises(BadInput):
        Invite.new(("h:1",), expires_in_s)


def test_the_store_gives_invites_back_the_last_saved_first(tmp_path: Path) -> None:
    store = InviteStore(tmp_path, HandClock())
    assert store.load() == []
    first, second = Invite.new(("h:1",)), Invite.new(("h:2",))
    for invite in (first, second, first.with_bootstrap("h:3")):
        store.save(invite)
    assert {invite.swarm_id for invite in store.load()} == {first.swarm_id, second.swarm_id}
    assert store.load()[0] == first.with_bootstrap("h:3")
    for path in (tmp_path / "invites").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


def test_the_store_removes_what_expired(tmp_path: Path) -> None:
    clock = HandClock()
    store = InviteStore(tmp_path, clock)
    store.save(Invite.new((), 60, clock=clock))
    assert len(store.load()) == 1
    clock.now_s += 60
    assert store.load() == []
    assert list((tmp_path / "invites").iterdir()) == []


def test_a_damaged_invite_file_is_named_and_kept(tmp_path: Path) -> None:
    store = InviteStore(tmp_path)
    invite = Invite.new()
    store.save(invite)
    path = tmp_path / "invites" / invite.swarm_id
    path.write_text("sl1-aaaa")
    with pytest.raises(BadInput, match=f"{invite.swarm_id}: the invite is mistyped"):
        store.load()
    assert path.exists()
