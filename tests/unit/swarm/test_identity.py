from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from shardline.core.errors import BadInput
from shardline.swarm import Identity
from shardline.wire import verify

if TYPE_CHECKING:
    from pathlib import Path


def test_an_identity_is_the_same_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "home" / "identity"
    assert Identity.load_or_create(path).node_id == Identity.load_or_create(path).node_id


def test_only_its_owner_can_read_an_identity(tmp_path: Path) -> None:
    path = tmp_path / "home" / "identity"
    Identity.load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["identity"]


def test_an_identity_signs_as_its_node_id() -> None:
    identity = Identity.ephemeral()
    signature = identity.sign(b"step 7")
    assert verify(identity.node_id, b"step 7", signature)
    assert not verify(identity.node_id, b"step 8", signature)
    assert not verify(Identity.ephemeral().node_id, b"step 7", signature)


def test_an_identity_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    Identity.load_or_create(path)
    path.chmod(0o644)
    with pytest.raises(BadInput, match="can be read by others: run chmod 600"):
        Identity.load_or_create(path)


@pytest.mark.parametrize(
    "damage",
    [
        (0, 200, ""),
        (70, 200, ""),
        (10, 12, "zz"),
        (0, 7, "rsa"),
        (136, 137, ""),
        (0, 0, "\xff" * 100),
        (0, 0, "x" * 1000),
    ],
)
def test_a_damaged_identity_is_named_and_kept(tmp_path: Path, damage: tuple[int, int, str]) -> None:
    path = tmp_path / "identity"
    Identity.load_or_create(path)
    text, (start, stop, new) = path.read_text(), damage
    damaged = text[:start] + new + text[stop:]
    path.write_text(damaged)
    with pytest.raises(BadInput, match="identity"):
        Identity.load_or_create(path)
    assert path.read_text() == damaged


def test_an_identity_in_an_impossible_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="file"):
        Identity.load_or_create(tmp_path / "file" / "identity")


def test_processes_that_start_together_become_one_node(tmp_path: Path) -> None:
    path = tmp_path / "home" / "identity"
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(Identity.load_or_create, [path] * 16)
        assert len({identity.node_id for identity in found}) == 1


def test_the_secret_is_not_shown() -> None:
    identity = Identity.ephemeral()
    seed = identity.line().split()[1]
    assert seed not in repr(identity)
    assert seed not in str(identity)
