"""Exit codes: 0 done, 2 bad input, 3 the swarm could not do it, 1 our bug."""

import click
import pytest

from shardline.cli.main import cli, run
from shardline.core import errors
from shardline.core.errors import BadInput, NotCovered, ShardlineError

KINDS = [getattr(errors, name) for name in errors.__all__ if name[0].isupper()]
COMMANDS = ["serve", "generate", "chat", "status", "invite", "demo"]
WIDE = 100


def ending_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli, "main", fail)
    return run([])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_errors_branch_is_its_exit_code(
    kind: type[ShardlineError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending_with(kind("why"), monkeypatch) == (2 if issubclass(kind, BadInput) else 3)
    assert capsys.readouterr() == ("", "shardline: why\n")


def test_nobody_who_holds_a_block_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ending_with(NotCovered("no live node holds blocks 0:4"), monkeypatch) == 2


def test_what_nobody_raised_on_purpose_is_our_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending_with(KeyError("oops"), monkeypatch) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == (
        "shardline: this is a bug of ours; please report it with the lines above"
    )
    assert "KeyError" in err


def test_groups_are_unwrapped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = BaseExceptionGroup("inner", [BadInput("give another")])
    assert ending_with(BaseExceptionGroup("outer", [inner]), monkeypatch) == 2
    assert capsys.readouterr().err == "shardline: give another\n"


def test_a_group_without_an_error_of_ours_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ending_with(ExceptionGroup("group", [KeyError("oops")]), monkeypatch) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()], ids=repr)
def test_an_interrupt_is_no_bug(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ending_with(error, monkeypatch) == 130


def test_a_reader_that_has_enough_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ending_with(BrokenPipeError(), monkeypatch) == 0


def test_an_error_of_many_lines_is_said_in_one_that_no_terminal_obeys(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ending_with(BadInput("one\ntwo\t\x1b[31mred\u202eder"), monkeypatch)
    assert capsys.readouterr().err == "shardline: one two ?[31mred?der\n"


def test_a_wrong_word_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--bogus"]) == 2
    assert capsys.readouterr().err.startswith("shardline: No such option '--bogus'")


def test_no_word_at_all_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "generate" in capsys.readouterr().out


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("shardline, version ")


@pytest.mark.parametrize(
    "command",
    [[], *([name] for name in COMMANDS), ["invite", "new"], ["invite", "show"]],
    ids=lambda words: " ".join(words) or "shardline",
)
def test_help_is_calm_and_fits_the_screen(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run([*command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("Usage: shardline")
    assert max(map(len, out.splitlines())) <= WIDE
