"""Weights of texts against those that one plain forward of each text gives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from shardline.core.errors import PromptTooLong
from shardline.evaluation import Weigher, shipped_questions, shipped_text
from shardline.evaluation.weighing import _batches as batches_of  # pyright: ignore[reportPrivateUsage]
from shardline.evaluation.weighing import _readers as readers_of  # pyright: ignore[reportPrivateUsage]
from shardline.model import load_tokenizer

if TYPE_CHECKING:
    from shardline.evaluation import Tokens

MODEL = Path(__file__).parents[3] / "models" / "fable-2m"
CONTEXT = 512
texts = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple), min_size=1)


class Counting:
    """The shipped model in one process, and the tokens that it has read."""

    def __init__(self) -> None:
        self.whole: Any = cast("Any", AutoModelForCausalLM).from_pretrained(
            MODEL, dtype=torch.float32
        )
        self.read = 0

    def __call__(self, input_ids: torch.Tensor, *, use_cache: bool) -> Any:
        self.read += input_ids.numel()
        return self.whole(input_ids=input_ids, use_cache=use_cache)


@pytest.fixture(scope="module")
def counting() -> Counting:
    return Counting()


@pytest.fixture
def weigher(counting: Counting) -> Weigher:
    return Weigher(counting, cast("Tokens", load_tokenizer(MODEL)), context_tokens=CONTEXT)


def plainly(counting: Counting, ids: list[int], start: int) -> tuple[float, list[int]]:
    """The likelihood of ids[start:] in one forward, and what is likeliest at its places."""
    with torch.no_grad():
        logits = counting.whole(input_ids=torch.tensor([ids])).logits[0]
    shares = logits[start - 1 : -1].log_softmax(-1)
    sure = shares.gather(1, torch.tensor(ids[start:])[:, None]).sum().item()
    return sure, shares.argmax(-1).tolist()


def test_an_option_weighs_what_one_plain_forward_says(weigher: Weigher, counting: Counting) -> None:
    question = shipped_questions("ending", 1).asked[0]
    weights = weigher.weigh([(question.prompt, f" {option}") for option in question.options])
    before = weigher.tokens.encode(question.prompt)
    for option, weight in zip(question.options, weights, strict=True):
        ids = weigher.tokens.encode(f"{question.prompt} {option}")
        sure, likeliest = plainly(counting, ids, len(before))
        assert weight.likelihood == pytest.approx(sure, abs=1e-3)
        assert list(weight.likeliest) == likeliest
        assert weight.greedy is (likeliest == ids[len(before) :])


def test_options_of_one_token_cost_one_reading_of_their_prompt(
    weigher: Weigher, counting: Counting
) -> None:
    question = shipped_questions("cause", 1).asked[0]
    counting.read = 0
    weigher.weigh([(question.prompt, " Yes"), (question.prompt, " No")])
    assert counting.read == len(weigher.tokens.encode(question.prompt))


def test_a_prompt_that_ends_in_a_space_gives_it_to_the_option(weigher: Weigher) -> None:
    bare, spaced = weigher.weigh([("Anna saw a", " fox"), ("Anna saw a ", "fox")])
    assert bare == spaced


def test_a_text_is_told_once_and_each_window_looks_back_as_far_as_it_can(
    counting: Counting,
) -> None:
    weigher = Weigher(counting, cast("Tokens", load_tokenizer(MODEL)), context_tokens=16)
    story = shipped_text("story", 1).texts[0]
    ids = weigher.tokens.encode(story, add_special_tokens=False)
    rows = weigher.windows(story)
    assert [token for _, told in rows for token in told] == ids
    assert all(len(before) + len(told) <= 17 for before, told in rows)
    assert len(rows[-1][0]) + len(rows[-1][1]) == 17
    assert len(rows) == -(-len(ids) // 16)


def test_a_long_prompt_loses_its_beginning_and_a_long_text_is_refused(
    weigher: Weigher, counting: Counting
) -> None:
    long = tuple(range(3, 703))
    (weight,) = weigher.weigh_ids([(long[:-1], long[-1:])])
    sure, _ = plainly(counting, list(long[-CONTEXT - 1 :]), CONTEXT)
    assert weight.likelihood == pytest.approx(sure, abs=1e-3)
    with pytest.raises(PromptTooLong, match=r"700 tokens .* context of 512"):
        weigher.weigh_ids([((0,), long)])


@given(texts)
def test_the_reader_of_a_text_begins_with_it_and_needs_no_other(
    rows: list[tuple[int, ...]],
) -> None:
    readers = readers_of(rows)
    for ids, reader in readers.items():
        assert reader[: len(ids)] == ids
        assert readers[reader] == reader
    chosen = set(readers.values())
    assert not any(a != b and b[: len(a)] == a for a in chosen for b in chosen)


@given(st.lists(st.integers(1, 3_000), unique=True))
def test_each_row_is_in_one_batch_and_batches_are_bounded(sizes: list[int]) -> None:
    rows = [(0,) * size for size in sizes]
    batches = list(batches_of(rows))
    assert sorted(map(len, (row for batch in batches for row in batch))) == sorted(sizes)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(map(len, batch)) <= 2_048
