"""Where members were heard, from one start to the next."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from shardline.core.errors import BadInput
from shardline.swarm import AddressBook
from shardline.swarm.invite_store import KNOWN_MAX

if TYPE_CHECKING:
    from pathlib import Path

SWARM = "0123456789abcdef"


def test_nothing_is_known_of_a_new_swarm(tmp_path: Path) -> None:
    assert AddressBook(tmp_path).known(SWARM) == ()
    assert not list(tmp_path.iterdir())


def test_what_was_heard_last_comes_first_and_once(tmp_path: Path) -> None:
    book = AddressBook(tmp_path)
    book.hear(SWARM, ["a:1", "b:2"])
    book.hear(SWARM, ["c:3", "a:1"])
    assert AddressBook(tmp_path).known(SWARM) == ("c:3", "a:1", "b:2")
    assert book.known("f" * 16) == ()


def test_the_oldest_are_forgotten(tmp_path: Path) -> None:
    book = AddressBook(tmp_path)
    book.hear(SWARM, ["old:1"])
    book.hear(SWARM, (f"{'h' * 90}{number}:{number}" for number in range(1, KNOWN_MAX + 1)))
    assert len(book.known(SWARM)) == KNOWN_MAX
    assert "old:1" not in book.known(SWARM)


def test_what_cannot_be_dialled_here_is_left_out(tmp_path: Path) -> None:
    book = AddressBook(tmp_path)
    book.hear(SWARM, ["iroh/abc", "host", "host:0", "good:1", "x" * 200 + ":1"])
    assert book.known(SWARM) == ("good:1",)


def test_a_book_is_its_owners_alone(tmp_path: Path) -> None:
    book = AddressBook(tmp_path)
    book.hear(SWARM, ["a:1"])
    path = tmp_path / "addresses" / SWARM
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(BadInput, match="chmod 600"):
        book.known(SWARM)
