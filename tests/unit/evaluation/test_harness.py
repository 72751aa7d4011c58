"""The model as the harness sees it: texts in, weights and texts out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from transformers import AutoModelForCausalLM

from shardline.evaluation import Weigher, shipped_text
from shardline.evaluation.harness import HarnessModel
from shardline.model import load_tokenizer

if TYPE_CHECKING:
    from shardline.evaluation import Tokens

MODEL = Path(__file__).parents[3] / "models" / "fable-2m"
PROMPT = "Tell me a story about the lost lantern.\n"


def requests(*arguments: tuple[Any, ...]) -> list[SimpleNamespace]:
    """As the harness's instances, as far as a model looks at them."""
    return [SimpleNamespace(args=one) for one in arguments]


@pytest.fixture(scope="module")
def weigher() -> Weigher:
    whole: Any = cast("Any", AutoModelForCausalLM).from_pretrained(MODEL, dtype=torch.float32)
    return Weigher(whole, cast("Tokens", load_tokenizer(MODEL)), context_tokens=512)


def test_likelihoods_are_those_of_the_weigher(weigher: Weigher) -> None:
    pairs = [("Anna saw a", " fox"), ("", "One sunny day")]
    found = HarnessModel(weigher).loglikelihood(requests(*pairs))
    weights = weigher.weigh(pairs)
    assert found == [(one.likelihood, one.greedy) for one in weights]


def test_a_rolling_likelihood_is_of_the_whole_text(weigher: Weigher) -> None:
    story = shipped_text("story", 1)
    (whole,) = HarnessModel(weigher).loglikelihood_rolling(requests((story.texts[0],)))
    assert whole == pytest.approx(-sum(story.measure(weigher).nats))


def test_a_text_is_written_greedily_up_to_the_first_stop(weigher: Weigher) -> None:
    asked = {"until": ["zebra", "."], "max_gen_toks": 40}
    (text,) = HarnessModel(weigher).generate_until(requests((PROMPT, asked)))
    assert text.startswith("One sunny day, ")
    assert "." not in text
    (whole,) = HarnessModel(weigher).generate_until(requests((PROMPT, {"max_gen_toks": 40})))
    assert whole.startswith(f"{text}.")
