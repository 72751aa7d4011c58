"""Sessions that are stepped together give the tokens of lone ones, in every architecture.

Where the blocks can be run on one row of all sessions' tokens, they are; where they cannot, each
session is stepped alone. Which is which is found by trying (`model/merging.py`), and told here.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import torch

from shardline.core.errors import ShardlineError
from shardline.model import load_ends
from tests.parity.chains import CPU, LocalChain, difference, generated, padded_batch, prompt

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers.cache_utils import Cache

    from shardline.model import Crossing, LoadedSpan, Returned, SessionCache
    from tests.parity.conftest import Case

TOKENS = 10
ALONE = {"bloom", "deepseek-v3", "falcon-alibi", "falcon-rotary", "mamba", "qwen3-next"}
"""Architectures whose sessions are stepped one by one: their blocks attend without asking the
registry, work on what the cache gave back, or keep other states."""


KEPT = {"gemma2", "gemma3", "gpt-oss", "gpt2", "mistral", "phi3"}
WHOLE = KEPT | ALONE - {"deepseek-v3", "falcon-rotary"}
"""Architectures whose prompts are not cut: they keep other states, or less than all of the past."""


class Rounds:
    """A `RunBlocks` whose callers, each in its own thread, all wait until all have a step."""

    def __init__(self, chain: LocalChain, callers: int) -> None:
        self.chain = chain
        self.callers = callers
        self.condition = threading.Condition()
        self.waiting: list[tuple[list[SessionCache], Crossing]] = []
        self.results: dict[int, Any] = {}

    def __call__(self, cache: Cache | None, crossing: Crossing) -> Returned:
        assert cache is not None
        chain = self.chain
        with self.condition:
            if cache not in chain.sessions:
                chain.sessions[cache] = [span.new_cache() for span in chain.spans]
            caches = list(chain.sessions[cache])
            self.waiting.append((caches, crossing))
            self.run_if_all_are_here()
            assert self.condition.wait_for(lambda: id(caches) in self.results, timeout=60)
            result = self.results.pop(id(caches))
        if isinstance(result, ShardlineError):
            raise result
        return result

    def leave(self) -> None:
        with self.condition:
            self.callers -= 1
            self.run_if_all_are_here()

    def run_if_all_are_here(self) -> None:
        if not self.waiting or len(self.waiting) < self.callers:
            return
        going: list[Any] = [crossing for _, crossing in self.waiting]
        for index, span in enumerate(self.chain.spans):
            steps = [(x, caches[index]) for x, (caches, _) in zip(going, self.waiting, strict=True)]
            going = span.run_together(steps)
        for (caches, _), result in zip(self.waiting, going, strict=True):
            self.results[id(caches)] = result
        self.waiting = []
        self.condition.notify_all()


def in_threads(works: list[Callable[[], Any]]) -> list[Any]:
    """Run all at once; raises what one of them raised."""
    results: dict[int, Any] = {}

    def run(index: int) -> None:
        torch.set_num_threads(1)
        try:
            results[index] = works[index]()
        except BaseException as error:
            results[index] = error
            raise

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results.values():
        if isinstance(result, BaseException):
            raise result
    return [results[index] for index in range(len(works))]


def test_three_sessions_together_have_the_tokens_and_logits_of_lone_ones(case: Case) -> None:
    inputs = [prompt(9, seed=5), prompt(6, seed=7), padded_batch()]
    lengths = [TOKENS, TOKENS - 3, TOKENS - 1]
    rounds = Rounds(LocalChain.load(case.plan, 2), len(inputs))

    def caller(index: int) -> Any:
        try:
            ends = load_ends(case.plan, rounds, dtype=torch.float32, device=CPU)
            return generated(ends, inputs[index], tokens=lengths[index])
        finally:
            rounds.leave()

    found = in_threads([lambda i=i: caller(i) for i in range(len(inputs))])
    for (ids, logits), own, tokens in zip(found, inputs, lengths, strict=True):
        expected_ids, expected = generated(case.whole, own, tokens=tokens)
        assert torch.equal(ids, expected_ids)
        assert difference(logits, expected) < 1e-3
    for span in rounds.chain.spans:
        assert (True in span.together.tried) == (case.tiny.name not in ALONE)
        assert len(set(span.together.tried)) < 2, "some of its steps are merged, and some are not"


def test_in_bfloat16_they_have_the_very_bits_of_lone_ones(case: Case) -> None:
    if case.tiny.name in ALONE:
        pytest.skip("its sessions are stepped one by one")
    inputs = [prompt(9, seed=5), prompt(6, seed=7)]
    chain = LocalChain.load(case.plan, 2, torch.bfloat16)
    rounds = Rounds(chain, len(inputs))
    ends = [load_ends(case.plan, rounds, dtype=torch.bfloat16, device=CPU) for _ in inputs]

    def caller(index: int) -> Any:
        try:
            return generated(ends[index], inputs[index], tokens=6)
        finally:
            rounds.leave()

    found = in_threads([lambda i=i: caller(i) for i in range(len(inputs))])
    alone = load_ends(case.plan, chain, dtype=torch.bfloat16, device=CPU)
    for (ids, logits), own in zip(found, inputs, strict=True):
        expected_ids, expected = generated(alone, own, tokens=6)
        assert torch.equal(ids, expected_ids)
        assert difference(logits, expected) == 0.0


class InPieces(LocalChain):
    """Each step in pieces of at most four tokens."""

    cuts = 0

    def step(
        self, span: LoadedSpan, crossing: Crossing, cache: SessionCache | None
    ) -> Crossing | Returned:
        assert cache is not None
        pieces = span.pieces(crossing, cache, 4)
        if len(pieces) == 1:
            return span.run(crossing, cache)
        self.cuts += 1
        return span.joined(crossing, [span.run(piece, cache) for piece in pieces])


@pytest.mark.parametrize("inputs", [prompt(), padded_batch()], ids=["one", "padded"])
def test_a_prompt_in_pieces_gives_what_it_gives_whole(
    case: Case, inputs: tuple[torch.Tensor, torch.Tensor]
) -> None:
    chain = InPieces([*LocalChain.load(case.plan, 2).spans])
    expected_ids, expected = generated(case.whole, inputs, tokens=4)
    ids, logits = generated(case.ends_over(chain), inputs, tokens=4)
    assert torch.equal(ids, expected_ids)
    assert difference(logits, expected) < 1e-3
    assert chain.cuts == (0 if case.tiny.name in WHOLE else len(chain.spans))
