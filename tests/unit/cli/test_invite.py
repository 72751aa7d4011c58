"""`shardline invite`: one word on stdout."""

import sys
from pathlib import Path

import pytest

from shardline.cli.invite import _parse_life  # pyright: ignore[reportPrivateUsage]
from shardline.cli.main import run
from shardline.core.errors import BadInput
from shardline.swarm import Invite


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHARDLINE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_new_prints_the_invite_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["invite", "new", "--bootstrap", "host:1", "--expires", "12h"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    invite = Invite.parse(out)
    assert invite.bootstrap == ("host:1",)
    assert invite.expires_at_s is not None


def test_new_says_whose_directory_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["invite", "new", "--bootstrap", "host:1", "--directory", "dht"]) == 0
    invite = Invite.parse(capsys.readouterr().out)
    assert invite.directory == "dht"
    assert invite.bootstrap[0].startswith("host:1/12D3KooW")
    assert run(["invite", "new", "--directory", "phone"]) == 2


def test_a_missing_extra_is_one_line_with_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hivemind", None)
    monkeypatch.delitem(sys.modules, "hivemind.p2p", raising=False)
    text = Invite.new(("127.0.0.1:1",), directory="dht").encode()
    assert run(["status", "--join", text]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "pip install 'shardline[dht]'" in err


def test_show_prints_what_new_made(capsys: pytest.CaptureFixture[str]) -> None:
    run(["invite", "new"])
    made = capsys.readouterr().out
    assert run(["invite", "show"]) == 0
    assert capsys.readouterr().out == made
    assert Invite.parse(made).bootstrap, "nobody could find it"


def test_show_without_any_says_how_to_make_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["invite", "show"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "shardline invite new" in err


@pytest.mark.parametrize(
    ("text", "life_s"), [("90s", 90), ("30m", 1800), ("12h", 43_200), ("30d", 2_592_000)]
)
def test_a_life_is_read(text: str, life_s: int) -> None:
    assert _parse_life(text) == life_s


@pytest.mark.parametrize(
    "text", ["", "d", "3", "3w", "-3d", "3.5d", " 3d", "3d ", "9" * 5000 + "s"]
)
def test_a_life_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="no time"):
        _parse_life(text)
