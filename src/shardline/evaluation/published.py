"""Tasks of lm-evaluation-harness, on data files in the forms in which their authors publish them.

HellaSwag and LAMBADA are JSON lines, a task of BIG-Bench Hard is one JSON file. Prompts, few-shot
examples and scoring are the harness's own (0030); nothing is downloaded, no code is read from data.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import msgspec

from shardline.core.errors import BadInput, Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from shardline.evaluation.measures import Shares
    from shardline.evaluation.weighing import Weigher

__all__ = ["PUBLISHED", "Published", "published_task"]

Documents = list[dict[str, Any]]
_Kind = TypeVar("_Kind", bound=msgspec.Struct)


class _HellaSwag(msgspec.Struct):
    """What is used of a document; `label` says which of the endings is right."""

    activity_label: str
    ctx_a: str
    ctx_b: str
    endings: list[str]
    label: int | str

    def __post_init__(self) -> None:
        self.label = str(self.label)
        if self.label not in map(str, range(len(self.endings))):
            raise ValueError(f"the label {self.label[:9]} is none of {len(self.endings)} endings")


class _Lambada(msgspec.Struct):
    text: str

    def __post_init__(self) -> None:
        if " " not in self.text.strip():
            raise ValueError("a text of some words is needed")


class _Example(msgspec.Struct):
    input: str
    target: str


class _BigBenchHard(msgspec.Struct):
    examples: Annotated[list[_Example], msgspec.Meta(min_length=1)]


@dataclass(frozen=True, slots=True)
class _Source:
    """What the harness calls a task, the split that it asks, its files' names and their form."""

    harness: str
    split: str
    files: tuple[str, ...]
    form: type[msgspec.Struct]


def _bbh(name: str) -> _Source:
    return _Source(f"leaderboard_bbh_{name}", "test", (f"{name}.json",), _BigBenchHard)


PUBLISHED: Final = {
    "hellaswag": (_Source("hellaswag", "validation", ("hellaswag_val.jsonl",), _HellaSwag),),
    "lambada_openai": (
        _Source(
            "lambada_openai", "test", ("lambada_test.jsonl", "lambada_test_en.jsonl"), _Lambada
        ),
    ),
    "causal_judgement": (_bbh("causal_judgement"),),
    "disambiguation_qa": (_bbh("disambiguation_qa"),),
    "logical_deduction": tuple(
        _bbh(f"logical_deduction_{size}_objects") for size in ("three", "five", "seven")
    ),
}
"""The paper's tasks; of several parts all answers count as one task's."""


@dataclass(frozen=True, slots=True)
class Published:
    """A task: the harness's parts, and the documents of each."""

    name: str
    parts: tuple[tuple[str, str, Documents], ...]
    """The harness's name, its split, and the documents."""

    def measure(self, model: Weigher) -> Shares:
        """Let the harness ask the model."""
        from shardline.evaluation.harness import ask  # noqa: PLC0415  (the extra `eval`)

        return ask(model, self.parts)


def published_task(
    name: str, folder: Path, read: Callable[[Path], bytes], limit: int | None = None
) -> Published:
    """One of `PUBLISHED`, or its first documents, from files anywhere under a folder.

    `read` gives a file's bytes. Raises BadInput that names what is missing or malformed, and
    Unsupported where lm-evaluation-harness is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise Unsupported(f"{name} needs lm-evaluation-harness: pip install 'shardline[eval]'")
    parts: list[tuple[str, str, Documents]] = []
    for source in PUBLISHED[name]:
        file = _find(folder, source.files)
        documents = _documents(read(file), source.form, file)
        parts.append((source.harness, source.split, documents[:limit]))
    return Published(name, tuple(parts))


def _find(folder: Path, names: Sequence[str]) -> Path:
    found = [path for name in names for path in sorted(folder.rglob(name))]
    if not found:
        raise BadInput(f"there is no {' or '.join(names)} under {folder}")
    return found[0]


def _documents(data: bytes, kind: type[msgspec.Struct], file: Path) -> Documents:
    """What a file holds, checked; raises BadInput that names the place."""
    if kind is _BigBenchHard:
        return msgspec.to_builtins(_decoded(data, _BigBenchHard, str(file)).examples)
    lines = enumerate(data.splitlines(), 1)
    rows = [_decoded(line, kind, f"{file}, line {at}") for at, line in lines if line.strip()]
    if not rows:
        raise BadInput(f"{file} is empty")
    return msgspec.to_builtins(rows)


def _decoded(data: bytes, kind: type[_Kind], place: str) -> _Kind:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise BadInput(f"{place}: {error}") from None
