"""What is shipped is what is generated."""

from __future__ import annotations

import itertools

import pytest

from evals.fable import Kind
from evals.fable.ship import PLACE, QUESTIONS, STORIES, lines

SOME = 40


@pytest.mark.parametrize(
    ("name", "count"), [*((kind.value, QUESTIONS) for kind in Kind), ("stories", STORIES)]
)
def test_a_shipped_file_begins_as_its_generator_and_is_as_long(name: str, count: int) -> None:
    shipped = (PLACE / f"{name}.jsonl").read_text("utf-8").splitlines(keepends=True)
    assert len(shipped) == count
    assert list(lines(name, SOME)) == list(itertools.islice(shipped, SOME))
