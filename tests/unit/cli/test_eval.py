"""What `shardline eval` is asked for, before anything heavy is imported."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from transformers import BertConfig, BertModel

from shardline import evaluation
from shardline.cli import eval as command
from shardline.cli.eval import _listed as listed  # pyright: ignore[reportPrivateUsage]
from shardline.cli.eval import _names as names_of  # pyright: ignore[reportPrivateUsage]
from shardline.cli.eval import _paragraphs as paragraphs_of  # pyright: ignore[reportPrivateUsage]
from shardline.cli.eval_report import report, save_report
from shardline.cli.eval_run import measure_text
from shardline.cli.main import run
from shardline.core.errors import BadInput
from shardline.evaluation import Row

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [
    Row("cause", "bf16", "raw", 0.9, 0.8, 0.95, 50, 1.0, percent=True),
    Row("cause", "int8", "raw", 0.875, 0.8, 0.9, 50, 0.9, percent=True, change=-0.025, p=0.5),
    Row("perplexity", "int8", "raw", 2.0, 1.9, 2.1, 50, 0.9, percent=False, change=-0.5, p=0.5),
]


def test_the_names_are_those_of_the_room() -> None:
    assert command.MINIATURES == evaluation.MINIATURES
    assert tuple(evaluation.PUBLISHED) == command.PUBLISHED


def test_a_list_names_each_thing_once() -> None:
    assert listed(" bf16, int8,bf16,") == ("bf16", "int8")
    with pytest.raises(BadInput, match="an empty list"):
        listed(", ")


def test_groups_stand_for_their_tasks(tmp_path: Path) -> None:
    assert names_of(["cause", "miniatures"], None)[:2] == ["cause", "last-word"]
    assert len(names_of(["miniatures", "published", "perplexity"], tmp_path)) == 11
    with pytest.raises(BadInput, match="'hella' is no task: write some of miniatures, published"):
        names_of(["hella"], tmp_path)
    with pytest.raises(BadInput, match="hellaswag needs --data DIR"):
        names_of(["cause", "published"], None)


def test_a_text_is_its_paragraphs(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"One\r\nline.\r\n\r\n\r\n Two. \n")
    assert paragraphs_of(tmp_path / "text") == ("One\nline.", "Two.")


def test_a_report_tells_the_most_points_that_a_share_lost() -> None:
    found = report(ROWS, model="m", limit=None)
    assert (found["lost_points_max"], found["worse"], found["model"]) == (2.5, 0, "m")
    assert report(ROWS[:1])["lost_points_max"] == 0


def test_a_report_is_a_page_and_an_object_beside_each_other(tmp_path: Path) -> None:
    save_report(
        report(ROWS, model="m", nodes=2, limit=None), ROWS, tmp_path / "new" / "it", "Note."
    )
    page = (tmp_path / "new" / "it.md").read_text()
    assert page.startswith("# Table 1 of m\n\nmodel m, nodes 2, torch ")
    assert "limit" not in page.partition("|")[0]
    assert page.endswith("Note.\n")
    assert (tmp_path / "new" / "it.json").is_file()
    with pytest.raises(BadInput, match="cannot be written"):
        save_report(report(ROWS, model="m"), ROWS, tmp_path / "new" / "it.md" / "it")


@pytest.mark.parametrize("name", ["llama-3.2-1b", "llama-3.2-1b.md", "llama-3.2-1b.json"])
def test_a_name_may_have_dots(tmp_path: Path, name: str) -> None:
    save_report(report(ROWS, model="m"), ROWS, tmp_path / name)
    assert {file.name for file in tmp_path.iterdir()} == {"llama-3.2-1b.md", "llama-3.2-1b.json"}


def test_a_table_that_cannot_be_saved_is_still_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def measured(*_: object, **__: object) -> tuple[Any, list[Row]]:
        return SimpleNamespace(model_dir=tmp_path), ROWS

    monkeypatch.setattr("shardline.cli.eval_run.measure_text", measured)
    (tmp_path / "file").touch()
    assert run(["eval", "m", "--save", str(tmp_path / "file" / "it")]) == 2
    seen = capfd.readouterr()
    assert seen.out == f"{evaluation.table(ROWS)}\n"
    assert "cannot be written" in seen.err
    assert run(["eval", "m", "--save", str(tmp_path / "it")]) == 0
    assert f"saved as {tmp_path / 'it.md'} and {tmp_path / 'it.json'}\n" in capfd.readouterr().out


def test_what_does_not_write_is_refused(tmp_path: Path) -> None:
    config: Any = BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    model: Any = BertModel(config)
    model.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="BertModel is no decoder"):
        measure_text(str(tmp_path), [], ["bf16"], ["raw"], nodes=1, threads=1, tell=print)
