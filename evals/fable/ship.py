"""Write the questions and stories that `shardline eval` ships: `python -m evals.fable.ship`.

They are the first held-out ones of each kind, those of the model's card, so the package asks them
without this generator. A test holds the files equal to what is generated.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.fable.documents import make_question, make_story
from evals.fable.items import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["lines", "main"]

PLACE = Path(__file__).parents[2] / "src" / "shardline" / "evaluation" / "miniatures"
QUESTIONS = 500
STORIES = 200


def lines(name: str, count: int | None = None) -> Iterator[str]:
    """The file `name`.jsonl, line by line: all of it, or its beginning."""
    if name == "stories":
        for seed in range(STORIES if count is None else count):
            yield line({"text": make_story(seed).text})
        return
    for seed in range(QUESTIONS if count is None else count):
        one = make_question(Kind(name), seed)
        yield line({"prompt": one.prompt, "options": one.options, "answer": one.answer_index})


def line(row: dict[str, Any]) -> str:
    """One JSON line."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def main() -> None:
    """Write all files."""
    for name in (*Kind, "stories"):
        (PLACE / f"{name}.jsonl").write_text("".join(lines(name)), "utf-8")


if __name__ == "__main__":
    main()
