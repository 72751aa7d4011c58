"""`shardline eval`: real nodes, each kind of weights over each codec, a table and a file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.e2e.conftest import Ended

WAYS = [("bf16", "raw"), ("bf16", "int8"), ("int8", "raw"), ("int8", "int8")]


def test_two_nodes_answer_in_all_four_ways(shardline: Callable[..., Ended], tmp_path: Path) -> None:
    asked = ["--tasks", "cause,pronoun,perplexity", "--limit", "8", "--nodes", "2"]
    ended = shardline("eval", *asked, "--save", tmp_path / "kept", "--json")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert found == json.loads((tmp_path / "kept.json").read_text())
    assert (found["model"], found["nodes"], found["limit"]) == ("fable-2m", 2, 8)
    by_task = {name: rows for name in ("cause", "pronoun", "perplexity") if (rows := [
        row for row in found["rows"] if row["task"] == name
    ])}  # fmt: skip
    for rows in by_task.values():
        assert [(row["weights"], row["wire"]) for row in rows] == WAYS
        assert rows[0]["agreement"] == 1
        for row in rows:
            assert row["low"] <= row["score"] <= row["high"]
            assert 0 < row["agreement"] <= 1
    assert len(by_task) == 3
    assert {row["n"] for row in by_task["cause"]} == {8}
    assert by_task["cause"][0]["score"] > 0.5
    nats = {row["score"] for row in by_task["perplexity"]}
    assert len(nats) == 4  # eight bits are there, in weights and on the wire
    assert all(1 < one < 2.5 for one in nats)
    page = (tmp_path / "kept.md").read_text()
    assert "| task | bf16, raw wire | bf16, int8 wire | int8, raw wire | int8, int8 wire |" in page


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--tasks", "caus"), "'caus' is no task"),
        (("--tasks", ","), "an empty list"),
        (("--weights", "bf16,int7"), "'int7' is no kind of weights"),
        (("--wire", "zip"), "'zip' is no codec"),
        (("--tasks", "hellaswag"), "hellaswag needs --data DIR"),
        (("--nodes", "9", "--limit", "1"), "9 nodes, but the model has 8 blocks"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(
    shardline: Callable[..., Ended], arguments: tuple[str, ...], says: str
) -> None:
    shardline("eval", *arguments).one_line(2, says)


def test_an_empty_text_is_bad_input(shardline: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "text").write_text(" \n\n ")
    ended = shardline("eval", "--tasks", "perplexity", "--text", tmp_path / "text")
    ended.one_line(2, "has no text")
