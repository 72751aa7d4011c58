"""What is asked of embeddings, on vectors made up for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from evals.embeddings import SENTENCES, TOPIC_OF, Ranks, nearest, similarities
from evals.sentences import TOPICS

if TYPE_CHECKING:
    from numpy.typing import NDArray


def vectors(noise: float, seed: int = 0) -> torch.Tensor:
    """Unit vectors near one axis a topic."""
    luck = torch.Generator().manual_seed(seed)
    axes = torch.eye(len(TOPICS)).repeat_interleave(5, 0)
    spread: Any = axes + noise * torch.randn(axes.shape, generator=luck)
    return spread / spread.norm(dim=-1, keepdim=True)


def test_all_sentences_differ() -> None:
    assert len(set(SENTENCES)) == len(SENTENCES) == len(TOPIC_OF) == 120


def test_the_nearest_sentence_is_never_itself_and_right_if_of_its_topic() -> None:
    near = nearest(similarities(vectors(0.05)))
    assert near.score == 1.0
    assert all(int(answer) != at for at, answer in enumerate(near.answers))
    assert nearest(similarities(vectors(3.0))).score < 0.6


FEW = 40
"""Sentences of eight topics: a bootstrap over all takes seconds."""


def some(vectors: torch.Tensor) -> NDArray[np.float64]:
    """Of each of the first ones to each."""
    return similarities(vectors[:FEW])


def test_the_same_order_scores_one_and_a_little_noise_less() -> None:
    alone = some(vectors(0.5))
    same = Ranks(3 * alone + 1, alone)
    assert same.n == 780
    assert np.isclose(same.score, 1.0)
    near = Ranks(some(vectors(0.5) + 0.05 * vectors(1.0, seed=1)), alone)
    assert 0.9 < near.score < 0.9999
    low, high = near.interval()
    assert low < near.score < high


def test_a_worse_order_is_significantly_worse_and_agrees_less() -> None:
    alone = some(vectors(0.5))
    exact = Ranks(alone, alone)
    far = Ranks(some(vectors(0.5) + 0.5 * vectors(1.0, seed=1)), alone)
    change = far.change(exact)
    assert change.worse
    assert change.low < change.by < change.high < 0
    assert far.agreement(exact) < 1 == exact.agreement(exact)
    assert not exact.change(far).worse
