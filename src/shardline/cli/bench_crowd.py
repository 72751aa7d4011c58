"""Many sessions at once, as a gateway has them: one caller's head works on all their rows.

`generate` runs on a batch, and each row crosses to the nodes as a session of its own, with a seat
and a cache of its own there, so nodes are asked what as many users would ask. What these users'
own machines would do beside, each its embeddings and its head, is done once here for all rows:
else their work would be measured in place of the nodes'. Several such callers decode at their own
pace, so that one node of a chain works for one while the next works for another.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, cast
from weakref import WeakKeyDictionary

import torch
from transformers import DynamicCache
from transformers.generation.streamers import BaseStreamer

from shardline.core.errors import StepTimeout
from shardline.model import Call, Crossing, Returned, adopt_threads, load_ends

if TYPE_CHECKING:
    from transformers import Cache

    from shardline.client import SwarmModel

__all__ = [
    "Apart",
    "Watch",
    "Went",
    "crowd",
    "decode",
    "joined_rows",
    "prompts_of",
    "rate",
    "rows_of",
]

PROMPT_TOKENS: Final = 19
"""Of each session whose decoding is measured: little, so that reading it takes no time."""
SETTLE_TOKENS: Final = 2
"""At the start of a text that do not count: the prompt's own, and the first of its shape."""
TOGETHER_S: Final = 600.0
"""How long callers wait for each other before all decode at once."""

Tree = Any


@dataclass(frozen=True, slots=True)
class Went:
    """What was written, (rows, tokens), and how many tokens a second while all were writing."""

    tokens: torch.Tensor
    tokens_per_s: float


class Watch(BaseStreamer):
    """Notes when tokens come; the first that count come to all callers together."""

    def __init__(self, together: threading.Barrier) -> None:
        self.at_s: list[float] = []
        self._together = together
        self._prompt = True

    def put(self, value: torch.Tensor) -> None:
        """Transformers gives the prompt first, then each step's tokens of all rows."""
        del value
        if self._prompt:
            self._prompt = False
            return
        if len(self.at_s) == SETTLE_TOKENS - 1:
            self._together.wait()
        self.at_s.append(time.perf_counter())

    def end(self) -> None:
        """Transformers has finished."""


def rate(stamps: Sequence[Sequence[float]], rows: Sequence[int]) -> float:
    """Tokens a second of all callers, from when the last began to when the first ended.

    `stamps` says of each caller when its tokens came, in seconds, and `rows` how many at a time.
    """
    started_s = max(at_s[0] for at_s in stamps)
    ended_s = min(at_s[-1] for at_s in stamps)
    counted = (sum(started_s < one_s <= ended_s for one_s in at_s) for at_s in stamps)
    tokens = sum(count * each for count, each in zip(counted, rows, strict=True))
    return tokens / max(ended_s - started_s, 1e-9)


def prompts_of(batch: int, tokens: int, vocabulary: int, seed: int = 0) -> torch.Tensor:
    """So many prompts (batch, tokens), no two alike: no node has read their prefixes."""
    luck = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary, (batch, tokens), generator=luck)


def rows_of(crossing: Crossing) -> list[Crossing]:
    """The step of each row of a batch: what has the batch in front is cut, the rest is shared."""
    batch = crossing.batch

    def row(index: int) -> Crossing:
        def cut(leaf: Tree) -> Tree:
            if isinstance(leaf, torch.Tensor) and leaf.dim() > 1 and len(leaf) == batch:
                return leaf[index : index + 1]
            return leaf

        calls = tuple(Call(_each(cut, c.args), _each(cut, c.kwargs)) for c in crossing.calls)
        return Crossing(crossing.start, _each(cut, crossing.carried), calls, crossing.order)

    return [row(index) for index in range(batch)]


def joined_rows(rows: Sequence[Returned]) -> Returned:
    """What a batch would have got, from what its rows got."""

    def join(*leaves: Tree) -> Tree:
        return torch.cat(leaves) if isinstance(leaves[0], torch.Tensor) else leaves[0]

    return Returned(_each(join, *(row.output for row in rows)))


def _each(change: Callable[..., Tree], *trees: Tree) -> Tree:
    """Trees of one form, leaf by leaf."""
    first = trees[0]
    if isinstance(first, Mapping):
        keys = cast("Mapping[str, Any]", first)
        return {key: _each(change, *(tree[key] for tree in trees)) for key in keys}
    if isinstance(first, tuple | list):
        each = [_each(change, *parts) for parts in zip(*trees, strict=True)]
        return tuple(each) if isinstance(first, tuple) else each
    return change(*trees)


class Together(Protocol):
    """The way to a model's blocks, for many sessions at once."""

    def together(self, asked: Sequence[tuple[Cache | None, Crossing]]) -> list[Returned]:
        """A step of each of the sessions that these caches name."""
        ...


class Apart:
    """Runs each row of a batch as a session of its own, all at once; a port of `load_ends`."""

    def __init__(self, way: Together) -> None:
        self._way = way
        self._sessions: WeakKeyDictionary[Cache, list[Cache]] = WeakKeyDictionary()

    def __call__(self, cache: Cache | None, crossing: Crossing) -> Returned:
        """One step of all rows."""
        if cache is None or crossing.batch == 1:
            return self._way.together([(cache, crossing)])[0]
        if cache not in self._sessions:
            self._sessions[cache] = [DynamicCache() for _ in range(crossing.batch)]
        steps = list(zip(self._sessions[cache], rows_of(crossing), strict=True))
        return joined_rows(self._way.together(steps))


@contextlib.contextmanager
def crowd(
    model: SwarmModel, tokens: int, device: torch.device, *, apart: bool = True
) -> Generator[Any]:
    """The model's ends over sessions of `tokens` tokens, one for each row; closed in the end.

    With `apart` False, all rows of a batch are one session.
    """
    with model.lend(tokens) as run:
        blocks = Apart(run) if apart else run
        yield load_ends(model.plan, blocks, dtype=model.dtype, device=device)


def decode(model: Any, prompts: torch.Tensor, tokens: int, callers: int = 1) -> Went:  # noqa: ANN401
    """Let callers write so many tokens after their shares of the prompts (batch, tokens), greedily.

    Raises what the model's `generate` does.
    """
    shares = prompts.tensor_split(min(callers, len(prompts)))
    together = threading.Barrier(len(shares), timeout=TOGETHER_S)
    watches = [Watch(together) for _ in shares]

    def write(share: torch.Tensor, watch: Watch) -> torch.Tensor:
        adopt_threads()
        try:
            return _write(model, share, tokens, watch)
        except BaseException:
            together.abort()  # nobody waits for who will not come
            raise

    if len(shares) == 1:  # here: a second thread that computes would slow both (`computing_thread`)
        written = [write(shares[0], watches[0])]
    else:
        with ThreadPoolExecutor(len(shares)) as pool:
            writing = [pool.submit(write, *each) for each in zip(shares, watches, strict=True)]
        written = _results(writing)
    stamps = [watch.at_s[SETTLE_TOKENS - 1 :] for watch in watches]
    return Went(torch.cat(written), rate(stamps, [len(share) for share in shares]))


def _results(writing: Sequence[Future[torch.Tensor]]) -> list[torch.Tensor]:
    """Of all callers; raises what went wrong first, not that others waited for it in vain."""
    failures = [failed for one in writing if (failed := one.exception()) is not None]
    for failure in failures:
        if not isinstance(failure, threading.BrokenBarrierError):
            raise failure
    if failures:
        raise StepTimeout(f"the callers did not all begin to decode within {TOGETHER_S:.0f} s")
    return [one.result() for one in writing]


def _write(model: Any, prompts: torch.Tensor, tokens: int, watch: Watch) -> torch.Tensor:  # noqa: ANN401
    wanted = tokens + SETTLE_TOKENS
    out = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        streamer=watch,
        do_sample=False,
        min_new_tokens=wanted,
        max_new_tokens=wanted,
    )
    return out[:, prompts.shape[1] :].cpu()
