"""The shipped model: small, readable by Transformers, and far above chance on held-out text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
from transformers import AutoConfig, AutoTokenizer

from evals.fable import Kind, make_questions
from evals.fable.score import Scorer, score_questions

MODEL = Path(__file__).parents[3] / "models" / "fable-2m"
SIZE_BYTES_MAX = 12_000_000
QUESTIONS = 100
# Half-way between chance and the model card's number; see the card for intervals.
AT_LEAST = {
    Kind.LAST_WORD: 0.61,
    Kind.ENDING: 0.62,
    Kind.PRONOUN: 0.56,
    Kind.CAUSE: 0.69,
    Kind.ORDER: 0.37,
}


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.load(MODEL)


def test_the_model_fits_its_size_and_holds_no_pickle() -> None:
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= SIZE_BYTES_MAX
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".jinja"}


def test_the_model_has_blocks_enough_for_five_nodes() -> None:
    config = cast("Any", AutoConfig).from_pretrained(MODEL)
    assert config.architectures == ["LlamaForCausalLM"]
    assert config.num_hidden_layers >= 8
    assert config.tie_word_embeddings


def test_the_tokenizer_gives_any_text_back_and_templates_a_chat() -> None:
    tokenizer = cast("Any", AutoTokenizer).from_pretrained(MODEL)
    text = 'Zoë met 3 owls.\n  "Hello", they said: 日本'
    ids = cast("list[int]", tokenizer.encode(text))
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    turns = [{"role": "user", "content": "Tell me a story."}]
    assert (
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        == "<s>Tell me a story.\n"
    )


@pytest.mark.parametrize("kind", list(AT_LEAST))
def test_held_out_questions_are_answered_far_above_chance(scorer: Scorer, kind: Kind) -> None:
    score = score_questions(scorer, make_questions(kind, QUESTIONS), kind)
    assert score.accuracy >= AT_LEAST[kind], score
    assert score.low > score.chance, score


def test_a_story_keeps_to_its_plot_its_people_and_its_things(scorer: Scorer) -> None:
    lost = scorer.write("Tell me a story about the lost lantern.\n", new_tokens_max=160)
    begun = re.search(r"([A-Z]\w+) could not find (?:his|her) \w+ lantern", lost)
    assert begun is not None
    assert re.search(rf"and {begun[1]} found the (?:\w+ )?lantern in the", lost)
    proud = scorer.write("Tell me a story about the proud fox and the mouse.\n")
    assert "The fox was proud." in proud
    assert "mouse" in proud.rsplit(". ", 1)[-1]
    assert lost.rstrip().endswith(".")
    assert proud.rstrip().endswith(".")


def test_a_sampled_story_is_a_function_of_its_seed(scorer: Scorer) -> None:
    first, again, other = (
        scorer.write("One windy morning, Nora", 40, temperature=0.8, seed=seed)
        for seed in (1, 1, 2)
    )
    assert first == again != other
