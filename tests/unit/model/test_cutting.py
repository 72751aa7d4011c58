"""Which steps are cut: those whose pieces find in the cache what the pieces before them left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from shardline.model import Crossing, Returned, load_ends, trace
from shardline.model.cutting import cut, split
from shardline.model.merging import Cannot

MODEL = Path(__file__).parents[3] / "models" / "fable-2m"
TOKENS = 20


def crossing_of(*, use_cache: bool) -> Crossing:
    """What a caller of the shipped model sends for a prompt."""
    sent: list[Crossing] = []

    class Enough(Exception):
        pass

    def run(_: object, crossing: Crossing) -> Returned:
        sent.append(crossing)
        raise Enough

    ends: Any = load_ends(trace(MODEL), run, dtype=torch.float32, device=torch.device("cpu"))
    with torch.no_grad(), pytest.raises(Enough):
        ends(input_ids=torch.arange(3, 3 + TOKENS)[None], use_cache=use_cache)
    return sent[0]


def test_a_prompt_that_is_remembered_is_cut() -> None:
    crossing = crossing_of(use_cache=True)
    assert [piece.tokens for piece in cut(crossing, 0, 6)] == [6, 6, 6, 2]
    parts = split(crossing, 16)
    assert parts is not None
    assert [part.tokens for part in parts] == [16, TOKENS - 16]
    assert torch.equal(torch.cat([part.carried[0] for part in parts], 1), crossing.carried[0])


def test_a_prompt_that_leaves_nothing_in_the_cache_is_not() -> None:
    crossing = crossing_of(use_cache=False)
    with pytest.raises(Cannot, match="leaves nothing"):
        cut(crossing, 0, 6)
    assert split(crossing, 16) is None
