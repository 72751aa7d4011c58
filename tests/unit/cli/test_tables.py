"""Tables in a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardline.cli.tables import FILE_COLUMNS, table_console

if TYPE_CHECKING:
    import pytest


def test_a_pipe_sets_no_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    table_console().print("x" * FILE_COLUMNS)
    assert capsys.readouterr().out.splitlines() == ["x" * FILE_COLUMNS]
