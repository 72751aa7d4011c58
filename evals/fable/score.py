"""Score held-out questions by option log-likelihood: `python -m evals.fable.score models/fable-2m`.

An option's weight is the sum of its tokens' log-probabilities after the prompt; the heaviest wins.
Endings differ in length, so theirs is per byte, which is how HellaSwag is scored (`acc_norm` of
EleutherAI's lm-evaluation-harness); the plain sum (`acc`) is told beside it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evals.fable.documents import make_questions
from evals.fable.items import Kind, Question, Split
from evals.fable.tokens import CONTEXT_TOKENS
from shardline.evaluation import Tokens, Weigher, Weight, choice, wilson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardline.evaluation import Forward

__all__ = ["Score", "Scorer", "main", "score_questions"]

SAMPLE_TEMPERATURE = 0.8
END = 1  # the id of </s>
PER_BYTE = frozenset({Kind.ENDING})
STORY_PROMPTS = (
    "Tell me a story about the lost lantern.\n",
    "Tell me a story about the proud fox and the mouse.\n",
    "One windy morning, Nora",
)


@dataclass(frozen=True, slots=True)
class Score:
    """What a model got right: shares in [0, 1], the interval is Wilson's at 95%.

    `greedy` is the share whose right answer is also what greedy decoding would write, word for
    word; it has no options to help it.
    """

    name: str
    count: int
    accuracy: float
    low: float
    high: float
    chance: float
    greedy: float


class Scorer:
    """A model directory's model and tokenizer, ready to weigh options."""

    def __init__(self, model: torch.nn.Module, tokens: Tokens, device: str) -> None:
        self.model = model
        self.tokens = tokens
        self.device = device
        self._weigher = Weigher(
            cast("Forward", model), tokens, context_tokens=CONTEXT_TOKENS, device=device
        )

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Scorer:
        """Read a model directory; in float32, so that ties of rounding decide nothing."""
        model = cast("Any", AutoModelForCausalLM).from_pretrained(folder, dtype=torch.float32)
        tokens = cast("Tokens", cast("Any", AutoTokenizer).from_pretrained(folder))
        return cls(model.to(device).eval(), tokens, device)

    def weigh(self, pairs: Sequence[tuple[str, str]]) -> list[Weight]:
        """For (prompt, option) pairs: how likely the option follows."""
        return self._weigher.weigh([(prompt, f" {option}") for prompt, option in pairs])

    def write(
        self, prompt: str, new_tokens_max: int = 200, *, temperature: float = 0.0, seed: int = 0
    ) -> str:
        """A continuation of `prompt` up to the end of the document, greedy at temperature 0."""
        ids = self.tokens.encode(prompt)
        luck = torch.Generator().manual_seed(seed)
        with torch.inference_mode():
            for _ in range(new_tokens_max):
                logits = self.model(input_ids=torch.tensor([ids], device=self.device)).logits[0, -1]
                if temperature:
                    shares = (logits.float().cpu() / temperature).softmax(-1)
                    ids.append(int(torch.multinomial(shares, 1, generator=luck)))
                else:
                    ids.append(int(logits.argmax()))
                if ids[-1] == END:
                    break
        return self.tokens.decode(ids, skip_special_tokens=True)


Weights = list[Weight]  # one for each option


def weigh_questions(scorer: Scorer, questions: Sequence[Question]) -> list[Weights]:
    """The weights of every question's options."""
    pairs = [(question.prompt, option) for question in questions for option in question.options]
    weights = iter(scorer.weigh(pairs))
    return [list(itertools.islice(weights, len(question.options))) for question in questions]


def judged(
    questions: Sequence[Question], weighed: Sequence[Weights], name: str, *, per_byte: bool
) -> Score:
    """Accuracy, interval, chance and greedy share; `per_byte` divides by an option's length."""
    right = written = 0
    for question, weights in zip(questions, weighed, strict=True):
        right += choice(question.options, weights, per_byte=per_byte) == question.answer_index
        written += weights[question.answer_index].greedy
    count = len(questions)
    low, high = wilson(right, count)
    chance = sum(question.chance for question in questions) / count
    return Score(name, count, right / count, low, high, chance, written / count)


def score_questions(
    scorer: Scorer, questions: Sequence[Question], name: str, *, per_byte: bool | None = None
) -> Score:
    """The score of questions of one kind; by default per byte where the kind asks for it."""
    if per_byte is None:
        per_byte = questions[0].kind in PER_BYTE
    return judged(questions, weigh_questions(scorer, questions), name, per_byte=per_byte)


def score_all(scorer: Scorer, count: int) -> list[Score]:
    """Every kind on its first `count` held-out questions; order also by number of objects."""
    scores: list[Score] = []
    for kind in Kind:
        questions = make_questions(kind, count, Split.HELD_OUT)
        weighed = weigh_questions(scorer, questions)
        scores.append(judged(questions, weighed, kind, per_byte=kind in PER_BYTE))
        if kind in PER_BYTE:
            scores.append(judged(questions, weighed, f"{kind}, not per byte", per_byte=False))
        if kind is Kind.ORDER:
            by_size: dict[int, list[int]] = defaultdict(list)
            for index, question in enumerate(questions):
                by_size[len(question.options)].append(index)
            for size, chosen in sorted(by_size.items()):
                some = [questions[index] for index in chosen], [weighed[index] for index in chosen]
                scores.append(judged(*some, f"{kind}, {size} objects", per_byte=False))
    return scores


def main() -> None:
    """Read the command line, score, and print (or write with --json) what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--count", type=int, default=500, help="questions of each kind")
    parser.add_argument("--json", type=Path, help="also write the scores to this file")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scorer = Scorer.load(given.model, device)
    started_s = time.monotonic()
    scores = score_all(scorer, given.count)
    scoring_s = time.monotonic() - started_s
    stories = [scorer.write(prompt) for prompt in STORY_PROMPTS]
    sampled = scorer.write(STORY_PROMPTS[-1], temperature=SAMPLE_TEMPERATURE)
    print(table(scores), *stories, sampled, sep="\n\n")
    if given.json:
        report = {
            "command": f"python -m evals.fable.score {given.model} --count {given.count}",
            "weights_sha256": sha256((given.model / "model.safetensors").read_bytes()).hexdigest(),
            "device": device,
            "torch": torch.__version__,
            "scoring_s": round(scoring_s, 1),
            "scores": [asdict(score) for score in scores],
            "greedy_stories": stories,
            "sampled_story": {"temperature": SAMPLE_TEMPERATURE, "seed": 0, "text": sampled},
        }
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(report, indent=2) + "\n")


def table(scores: Sequence[Score]) -> str:
    """The scores as a Markdown table."""
    rows = [
        "| questions | n | right | 95% interval | chance | greedy |",
        "|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {score.name} | {score.count} | {score.accuracy:.1%} "
        f"| {score.low:.1%} to {score.high:.1%} | {score.chance:.1%} | {score.greedy:.1%} |"
        for score in scores
    ]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
