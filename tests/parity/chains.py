"""A chain of spans in one process, with every hop through bytes, and ways to decode with it."""

from __future__ import annotations

from itertools import pairwise
from math import inf, isnan
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import torch

from shardline.codec import pack, unpack
from shardline.core.spans import Span
from shardline.model import Crossing, LoadedSpan, Returned, SessionCache, load_span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache

    from shardline.model import ChainPlan

__all__ = [
    "CPU", "LocalChain", "difference", "furthest", "generated", "padded_batch", "prompt", "split",
]  # fmt: skip

CPU = torch.device("cpu")


def split(blocks: int, spans: int) -> list[Span]:
    """Uneven spans: all but the last take one block only."""
    return [Span(start, stop) for start, stop in pairwise([0, *range(1, spans), blocks])]


class LocalChain:
    """A `RunBlocks` over loaded spans; sessions are named by the caller's cache."""

    def __init__(
        self,
        spans: list[LoadedSpan],
        new_cache: Callable[[LoadedSpan], SessionCache] = LoadedSpan.new_cache,
    ) -> None:
        self.spans = spans
        self.new_cache = new_cache
        self.sessions: WeakKeyDictionary[Cache, list[SessionCache]] = WeakKeyDictionary()
        self.bytes_moved = 0
        self.steps = 0

    @classmethod
    def load(cls, plan: ChainPlan, spans: int, dtype: torch.dtype = torch.float32) -> LocalChain:
        cuts = split(plan.blocks, spans)
        return cls([load_span(plan, span, dtype=dtype, device=CPU) for span in cuts])

    def __call__(self, cache: Cache | None, crossing: Crossing) -> Returned:
        spans = self._spans(crossing)
        caches: list[SessionCache | None] = [None] * len(spans)
        if cache is not None:
            if cache not in self.sessions:
                self.sessions[cache] = [self.new_cache(span) for span in spans]
            caches = list(self.sessions[cache])
        result: Crossing | Returned = crossing
        self.steps += 1
        for span, held in zip(spans, caches, strict=True):
            result = self.step(span, Crossing.from_tree(self.through_bytes(result)), held)
        return Returned.from_tree(self.through_bytes(result))

    def _spans(self, crossing: Crossing) -> list[LoadedSpan]:
        """Those that the chain of this step goes through, cut where it ends."""
        first, stop = crossing.start, crossing.start + len(crossing.order)
        cuts = [(max(s.span.start, first), min(s.span.stop, stop), s) for s in self.spans]
        return [
            span if span.span == Span(start, end) else span.part(Span(start, end))
            for start, end, span in cuts
            if start < end
        ]

    def step(
        self, span: LoadedSpan, crossing: Crossing, cache: SessionCache | None
    ) -> Crossing | Returned:
        return span.run(crossing, cache)

    def through_bytes(self, result: Crossing | Returned) -> object:
        segments = [bytes(segment) for segment in pack(result.to_tree())]
        self.bytes_moved += sum(map(len, segments))
        return unpack(segments)


def prompt(tokens: int = 9, seed: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of one sequence."""
    ids = torch.randint(3, 96, (1, tokens), generator=torch.Generator().manual_seed(seed))
    return ids, torch.ones_like(ids)


def padded_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of three sequences of 9, 5 and 8 tokens, padded on the left with 0."""
    ids = torch.randint(3, 96, (3, 9), generator=torch.Generator().manual_seed(6))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    mask[2, :1] = 0
    return ids * mask, mask


def generated(
    model: PreTrainedModel, inputs: tuple[torch.Tensor, torch.Tensor], tokens: int = 16
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Greedy `generate`: all ids, and each step's logits."""
    typeless: Any = model
    found = typeless.generate(
        inputs[0],
        attention_mask=inputs[1],
        max_new_tokens=tokens,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return cast("torch.Tensor", found.sequences), cast("tuple[torch.Tensor, ...]", found.logits)


def difference(one: tuple[torch.Tensor, ...], two: tuple[torch.Tensor, ...]) -> float:
    """The largest absolute difference of any logit of any step."""
    return furthest(zip(one, two, strict=True))


def furthest(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """The largest difference of any pair; infinite where one is no number, which `max` passes."""
    found = [0.0]
    for one, other in pairs:
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        apart = (one.double() - other.double()).abs().detach()[one != other]
        found += [float(apart.max())] if apart.numel() else []
    return inf if any(map(isnan, found)) else max(found)
