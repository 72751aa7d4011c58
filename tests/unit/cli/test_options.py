"""Invites that are kept, names that are locked, and addresses."""

import os
import stat
from pathlib import Path

import pytest

from shardline.cli.options import (
    CODECS,
    home,
    keep_invite,
    node_identity,
    own_addresses,
    the_invite,
)
from shardline.codec import BLOCK, WIRES, encoder
from shardline.core.errors import BadInput, BadInvite
from shardline.swarm import Invite
from shardline.wire import BLOCK_DEFAULT, BLOCK_MAX, BLOCK_MIN


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHARDLINE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_home_is_the_environments_or_the_persons(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert home() == folder
    monkeypatch.setenv("SHARDLINE_HOME", "")
    assert home() == Path.home() / ".shardline"


def test_an_invite_that_was_given_is_taken_and_not_kept_yet(folder: Path) -> None:
    invite = Invite.new(("host:1",))
    assert the_invite(invite.encode()) == invite
    assert not folder.exists()


def test_without_one_the_last_kept_is_taken() -> None:
    first, second = Invite.new(("host:1",)), Invite.new(("host:2",))
    for age, invite in enumerate((second, first)):
        keep_invite(invite)
        kept = home() / "invites" / invite.swarm_id
        os.utime(kept, ns=(0, 1_700_000_000_000_000_000 + age))
    assert the_invite(None) == first
    keep_invite(second)
    assert the_invite(None) == second


def test_a_kept_invite_is_its_owners_alone(folder: Path) -> None:
    keep_invite(Invite.new())
    (kept,) = (folder / "invites").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_without_any_the_person_is_told_where_to_get_one() -> None:
    with pytest.raises(BadInput, match="shardline invite show"):
        the_invite(None)


@pytest.mark.parametrize("text", ["", "hello", "sl1-abc"])
def test_what_is_no_invite_is_refused_even_if_one_is_kept(text: str) -> None:
    keep_invite(Invite.new())
    with pytest.raises(BadInvite):
        the_invite(text)


def test_a_name_keeps_its_identity() -> None:
    with node_identity("ada") as (name, first):
        assert name == "ada"
    with node_identity("ada") as (_, again):
        assert again.node_id == first.node_id
    with node_identity("ben") as (_, other):
        assert other.node_id != first.node_id


def test_a_name_in_use_is_refused_until_it_is_free() -> None:
    with node_identity("ada"), pytest.raises(BadInput, match="'ada' serves"), node_identity("ada"):
        pass
    with node_identity("ada"):
        pass


def test_without_a_name_the_machines_is_taken_with_a_number_if_need_be() -> None:
    with node_identity(None) as (first, one), node_identity(None) as (second, two):
        assert second == f"{first}-2"
        assert one.node_id != two.node_id
    with node_identity(None) as (again, same):
        assert (again, same.node_id) == (first, one.node_id)


@pytest.mark.parametrize("name", ["", "a/b", ".", "/", "a\nb", "x" * 65, "\U0001f600" * 60])
def test_a_name_that_no_file_or_record_can_have_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="no name for a node"), node_identity(name):
        pass


def test_a_home_that_cannot_be_used_is_named(folder: Path) -> None:
    folder.write_text("in the way")
    with pytest.raises(BadInput, match=r"ada\.lock cannot be written"), node_identity("ada"):
        pass


def test_this_machine_has_an_address() -> None:
    addresses = own_addresses(7411)
    assert addresses
    assert all(address.endswith(":7411") for address in addresses)


def test_the_codecs_and_blocks_that_may_be_asked_for_are_those_that_there_are() -> None:
    assert CODECS == WIRES
    assert BLOCK_DEFAULT == BLOCK
    for wire in CODECS:
        for block in (BLOCK_MIN, BLOCK_MAX):
            encoder(wire, block=block)
    for block in (BLOCK_MIN - 1, BLOCK_MAX + 1):
        with pytest.raises(BadInput):
            encoder("int8", block=block)
