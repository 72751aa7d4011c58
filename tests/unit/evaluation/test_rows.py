"""Table 1, from what was found."""

from __future__ import annotations

from shardline.evaluation import Losses, Shares, Way, as_json, compare, markdown, table

RIGHT = Shares(("a",) * 40, (True,) * 40)
WORSE = Shares(("a",) * 30 + ("b",) * 10, (True,) * 30 + (False,) * 10)
ROWS = [
    *compare("pronoun", {Way("bf16", "raw"): RIGHT, Way("int8", "raw"): WORSE}),
    *compare(
        "perplexity",
        {
            Way("bf16", "raw"): Losses((1.0, 2.0), ((1,), (2,))),
            Way("int8", "raw"): Losses((1.0, 2.0), ((1,), (3,))),
        },
    ),
]


def test_the_first_way_is_what_others_are_compared_with() -> None:
    exact, int8, *_ = as_json(ROWS)
    assert (exact["agreement"], exact["change"], exact["p"], exact["worse"]) == (
        1,
        None,
        None,
        False,
    )
    assert exact.keys() >= {"task", "weights", "wire", "score", "low", "high", "n", "agreement"}
    assert (int8["score"], int8["change"], int8["agreement"]) == (0.75, -0.25, 0.75)
    assert int8["worse"]
    assert int8["p"] < 0.01


def test_the_table_names_a_task_once_and_says_what_is_worse() -> None:
    lines = table(ROWS).splitlines()
    assert len(lines) == 5
    assert lines[1].split()[:6] == ["pronoun", "bf16", "raw", "100.0%", "91.2%", "to"]
    assert lines[2].split()[:3] == ["int8", "raw", "75.0%"]
    assert "-25.00 (" in lines[2]
    assert lines[2].endswith("0.002 worse")
    assert lines[4].split()[2] == "4.4817"
    assert "+0.00% (+0.00 to +0.00)" in lines[4]


def test_the_page_has_a_column_a_way_and_then_every_figure() -> None:
    wide, long = markdown(ROWS).split("\n\n")
    assert wide.splitlines() == [
        "| task | bf16, raw wire | int8, raw wire |",
        "| --- | --- | --- |",
        "| pronoun | 100.0% | 75.0% worse |",
        "| perplexity | 4.4817 | 4.4817 |",
    ]
    assert len(long.splitlines()) == 6
