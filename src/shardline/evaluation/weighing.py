"""How likely a model holds a text after another: the one question that every task here is asked by.

A model is anything that is called as Transformers' decoders are: over a swarm, or in one process.
Rows of like length are read together; what is the beginning of another row is not read twice, so
that options of one word cost no more than their prompt.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from shardline.core.errors import BadInput, PromptTooLong

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Forward", "Tokens", "Weigher", "Weight"]

STEP_TOKENS = 2_048
"""The most tokens that are read at once, padding too: logits of all of them are held."""
CONTEXT_TOKENS = 2_048
"""Of a model that does not say its own."""

Ids = tuple[int, ...]


@runtime_checkable
class Forward(Protocol):
    """A decoder: (batch, tokens) ids to an output with `.logits` (batch, tokens, vocabulary)."""

    def __call__(self, input_ids: torch.Tensor, *, use_cache: bool) -> Any:  # noqa: ANN401
        """One forward, in which no token sees later ones."""
        ...


@runtime_checkable
class Tokens(Protocol):
    """The part of a Transformers tokenizer that weighing needs."""

    @property
    def bos_token_id(self) -> int | None:
        """What a text begins with."""
        ...

    @property
    def eos_token_id(self) -> int | None:
        """What a text ends with."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text."""
        ...

    def decode(self, ids: list[int], *, skip_special_tokens: bool = False) -> str:
        """The text of token ids."""
        ...


@dataclass(frozen=True, slots=True)
class Weight:
    """How likely one text follows another.

    `likelihood` is the sum over its tokens, in nats; `likeliest` has for each of its places the
    token that the model holds likeliest there.
    """

    likelihood: float
    likeliest: Ids
    greedy: bool
    """Whether greedy decoding would write it, word for word."""


class Weigher:
    """A model and its tokenizer, ready to weigh texts."""

    def __init__(
        self,
        model: Forward,
        tokens: Tokens,
        *,
        context_tokens: int | None = None,
        device: str = "cpu",
    ) -> None:
        self.model = model
        self.tokens = tokens
        self.context_tokens = context_tokens or CONTEXT_TOKENS
        self._device = device

    def weigh(self, pairs: Sequence[tuple[str, str]]) -> list[Weight]:
        """The second text of each pair as it follows the first; its space is its own."""
        return self.weigh_ids([self._split(prompt, text) for prompt, text in pairs])

    def weigh_ids(self, rows: Sequence[tuple[Ids, Ids]]) -> list[Weight]:
        """As `weigh`, of token ids. A prompt that is too long loses its beginning.

        Raises PromptTooLong if the second part of a row is longer than the model's context.
        """
        inputs = [self._input(prompt, text) for prompt, text in rows]
        readers = _readers(inputs)
        asked: dict[Ids, list[int]] = defaultdict(list)
        for index, ids in enumerate(inputs):
            asked[readers[ids]].append(index)
        weighed: dict[int, Weight] = {}
        for batch in _batches(asked):
            for ids, logits in zip(batch, self._logits(batch), strict=True):
                for index in asked[ids]:
                    text, stop = rows[index][1], len(inputs[index])
                    weighed[index] = _weight(logits[stop - len(text) : stop], text)
        return [weighed[index] for index in range(len(rows))]

    def windows(self, text: str) -> list[tuple[Ids, Ids]]:
        """A text as rows for `weigh_ids` in which each of its tokens is told once.

        Each window is as long as the context; the last one looks back as far as it can.
        """
        ids = tuple(self.tokens.encode(text, add_special_tokens=False))
        whole, told, size = (self._first(), *ids), 1, self.context_tokens
        rows: list[tuple[Ids, Ids]] = []
        while told < len(whole):
            stop = min(told + size, len(whole))
            start = max(0, stop - 1 - size)
            rows.append((whole[start:told], whole[told:stop]))
            told = stop
        return rows

    def _split(self, prompt: str, text: str) -> tuple[Ids, Ids]:
        """As lm-evaluation-harness: tokens of the whole, cut where the prompt's own end."""
        bare = prompt.rstrip()
        text = prompt[len(bare) :] + text
        if not bare:
            return (self._first(),), tuple(self.tokens.encode(text, add_special_tokens=False))
        before = self.tokens.encode(bare)
        return tuple(before), tuple(self.tokens.encode(bare + text)[len(before) :])

    def _first(self) -> int:
        """What stands before a text that nothing stands before."""
        for token in (self.tokens.bos_token_id, self.tokens.eos_token_id):
            if token is not None:
                return token
        raise BadInput("this model's tokenizer has no token that a text begins with")

    def _input(self, prompt: Ids, text: Ids) -> Ids:
        if not 0 < len(text) <= self.context_tokens:
            raise PromptTooLong(
                f"a text of {len(text)} tokens cannot be weighed in a context of "
                f"{self.context_tokens}"
            )
        return (*prompt, *text)[-self.context_tokens - 1 : -1]

    def _logits(self, batch: Sequence[Ids]) -> Iterator[torch.Tensor]:
        """Each row's, (tokens, vocabulary); padding stands behind, where nothing sees it."""
        ids = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.long)
        for row, one in zip(ids, batch, strict=True):
            row[: len(one)] = torch.tensor(one)
        with torch.no_grad():
            yield from self.model(input_ids=ids.to(self._device), use_cache=False).logits.cpu()


def _weight(logits: torch.Tensor, text: Ids) -> Weight:
    """Of logits (tokens, vocabulary) at the places of a text."""
    shares = logits.float().log_softmax(-1)
    wanted = torch.tensor(text)
    likelihood = float(shares.gather(1, wanted[:, None]).sum())
    best = shares.argmax(-1)
    return Weight(likelihood, tuple(map(int, best)), bool((best == wanted).all()))


def _readers(rows: Iterable[Ids]) -> dict[Ids, Ids]:
    """For each row the one to read instead of it: the last, in order, that begins with it."""
    ordered = sorted(set(rows))
    readers: dict[Ids, Ids] = {}
    for ids in ordered:
        behind = bisect.bisect_left(ordered, (*ids[:-1], ids[-1] + 1))
        readers[ids] = ordered[behind - 1]
    return readers


def _batches(rows: Iterable[Ids]) -> Iterator[list[Ids]]:
    """Rows of like length, so many as make a step."""
    batch: list[Ids] = []
    for ids in sorted(rows, key=len):
        if batch and (len(batch) + 1) * len(ids) > STEP_TOKENS:
            yield batch
            batch = []
        batch.append(ids)
    if batch:
        yield batch
