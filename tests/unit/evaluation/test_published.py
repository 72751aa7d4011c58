"""Files in the published forms, made up, through lm-evaluation-harness and what it would ask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from shardline.core.errors import BadInput, Unsupported
from shardline.evaluation import PUBLISHED, Weigher, Weight, published_task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HELLASWAG = {
    "ind": 24,
    "activity_label": "Baking",
    "ctx_a": "Anna lit the oven.",
    "ctx_b": "then she",
    "ctx": "Anna lit the oven. then she",
    "split": "val",
    "endings": ["she [title] sang !", "put the cake in.", "sang !!!! a song.", "ran."],
    "label": 1,
}
LAMBADA = {"text": "Leo looked for the lamp. Mia had found the !"}
BBH = {
    "canary": "none",
    "examples": [
        {"input": "Did A cause B?\nOptions:\n- Yes\n- No", "target": "Yes"},
        {"input": "Did B cause A?\nOptions:\n- Yes\n- No", "target": "No"},
    ],
}
FILES = {
    "hellaswag_val.jsonl": f"{json.dumps(HELLASWAG)}\n{json.dumps(HELLASWAG | {'label': '2'})}\n",
    "deeper/lambada_test.jsonl": f"{json.dumps(LAMBADA)}\n\n{json.dumps(LAMBADA)}\n",
    "deeper/causal_judgement.json": json.dumps(BBH),
}


class Spelled(Weigher):
    """Likes `!`, and `No`; knows what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def weigh(self, pairs: Sequence[tuple[str, str]]) -> list[Weight]:
        self.asked += pairs
        return [
            Weight(float(text.count("!") + text.count("No") - len(text)), (), greedy="!" in text)
            for _, text in pairs
        ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path, FILES)


def written(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def asked(name: str, folder: Path, limit: int | None = None) -> tuple[Any, Spelled]:
    spelled = Spelled()
    task = published_task(name, folder, Path.read_bytes, limit)
    return task.measure(spelled), spelled


def test_hellaswag_asks_four_endings_and_judges_them_by_length(folder: Path) -> None:
    found, spelled = asked("hellaswag", folder)
    assert len(spelled.asked) == 8
    assert spelled.asked[1] == ("Baking: Anna lit the oven. Then she", " put the cake in.")
    assert spelled.asked[0][1] == " she. sang !"  # the harness takes artefacts out
    assert found.answers == (" sang !!!! a song.",) * 2
    assert found.right == (False, True)


def test_lambada_asks_the_last_word_and_counts_what_greedy_writes(folder: Path) -> None:
    found, spelled = asked("lambada_openai", folder)
    assert spelled.asked[0] == ("Leo looked for the lamp. Mia had found the", " !")
    assert found.right == (True, True)
    assert asked("lambada_openai", folder, 1)[0].n == 1


def test_big_bench_hard_asks_after_three_examples(folder: Path) -> None:
    found, spelled = asked("causal_judgement", folder)
    prompt, option = spelled.asked[0]
    assert prompt.count("\n\nQ: ") + prompt.startswith("Q: ") >= 3
    assert prompt.endswith("Q: Did A cause B?\nOptions:\n- Yes\n- No\nA:")
    assert option == " Yes"
    assert (found.answers, found.right) == ((" No", " No"), (False, True))


def test_logical_deduction_is_of_three_files_and_one_score(tmp_path: Path) -> None:
    part = {"examples": [{"input": "Order.\nOptions:\n(A) x\n(B) y\n(C) z", "target": "(A)"}]}
    sizes = ("three", "five", "seven")
    files = {f"logical_deduction_{size}_objects.json": json.dumps(part) for size in sizes}
    found, _ = asked("logical_deduction", written(tmp_path, files))
    assert found.n == 3
    assert found.score == 1.0  # equal options: the first


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"there is no .*\.json"):
        published_task(name, tmp_path, Path.read_bytes)


@pytest.mark.parametrize(
    ("name", "file", "text", "says"),
    [
        ("hellaswag", "hellaswag_val.jsonl", "", "is empty"),
        ("hellaswag", "hellaswag_val.jsonl", "{}", "line 1: .*`activity_label`"),
        ("hellaswag", "hellaswag_val.jsonl", json.dumps(HELLASWAG | {"label": 4}), "of 4 endings"),
        ("hellaswag", "hellaswag_val.jsonl", "{", "line 1: Input data was truncated"),
        ("lambada_openai", "lambada_test.jsonl", '{"text": "One"}', "a text of some words"),
        ("lambada_openai", "lambada_test.jsonl", "[]", "line 1: Expected `object`"),
        ("causal_judgement", "causal_judgement.json", "[]", "Expected `object`"),
        ("causal_judgement", "causal_judgement.json", '{"examples": []}', "length >= 1"),
        ("causal_judgement", "causal_judgement.json", '{"examples": [{}]}', r"`input`.*\[0\]"),
    ],
)
def test_a_malformed_file_is_named(
    name: str, file: str, text: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=says):
        published_task(name, written(tmp_path, {file: text}), Path.read_bytes)


def test_without_the_harness_the_extra_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(_name: str) -> None:
        """Nothing is installed."""

    monkeypatch.setattr("importlib.util.find_spec", absent)
    with pytest.raises(Unsupported, match=r"pip install 'shardline\[eval\]'"):
        published_task("hellaswag", folder, Path.read_bytes)
