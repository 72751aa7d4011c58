"""A span of a model's blocks with real weights.

Running a step is one pure call: a crossing and the session's cache in, the next crossing (or the
last block's result) out.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Final, cast

import torch
from torch import nn
from transformers.cache_utils import Cache

from shardline.codec import Marker
from shardline.core.errors import PeerFault, ShardlineError, StepFailed
from shardline.core.spans import Span
from shardline.model.attending import attention_of, can_group
from shardline.model.caches import SpanCache
from shardline.model.crossing import CACHE, Call, Crossing, Returned, carried_marker
from shardline.model.cutting import joined_carried, joined_tree
from shardline.model.library import text_config
from shardline.model.loading import BUILDING, drop_outside, load_part
from shardline.model.merging import Handing, Merged
from shardline.model.packed import PackedLinear, can_pack, pack
from shardline.model.pages import PagedLayer
from shardline.model.together import Together
from shardline.model.trees import Leaf, Path, Tree, get, map_leaves
from shardline.model.weights import QuantisedExperts, QuantisedLinear

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from transformers import PreTrainedConfig, PreTrainedModel

    from shardline.model.chain import ChainPlan
    from shardline.model.pages import Pages
    from shardline.model.quantising import Weights

__all__ = ["LoadedSpan", "load_span"]

PAGE_BYTES: Final = 4096


class LoadedSpan:
    """Blocks [start, stop) of a model, ready to run; made by `load_span`."""

    def __init__(
        self,
        plan: ChainPlan,
        span: Span,
        blocks: dict[int, nn.Module],
        cache: type[PagedLayer] = PagedLayer,
    ) -> None:
        self.plan = plan
        self.span = span
        self.blocks = blocks
        self.cache = cache
        self.together = Together(self)

    @functools.cached_property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    @functools.cached_property
    def device(self) -> torch.device:
        """Where the weights are; asked at every step."""
        return self.parameters()[0].device

    def parameters(self) -> list[nn.Parameter]:
        """Every parameter held."""
        return [p for block in self.blocks.values() for p in block.parameters()]

    @property
    def memory_bytes(self) -> int:
        """Bytes of all parameters held."""
        modules = [m for block in self.blocks.values() for m in block.modules()]
        made = [
            m for m in modules if isinstance(m, PackedLinear | QuantisedLinear | QuantisedExperts)
        ]
        return sum(held.nbytes for held in self.parameters()) + sum(
            held.memory_bytes for held in made
        )

    def part(self, span: Span) -> LoadedSpan:
        """The same blocks seen as a span within this one; the weights are shared."""
        held = {index: self.blocks[index] for index in range(span.start, span.stop)}
        return LoadedSpan(self.plan, span, held, self.cache)

    def warm(self) -> None:
        """Read every page of the weights once: they are memory-mapped, and the first step would."""
        for parameter in self.parameters():
            parameter.detach().reshape(-1).view(torch.uint8)[::PAGE_BYTES].sum()

    def new_cache(self, tokens: int | None = None, shared: Sequence[Pages] = ()) -> SpanCache:
        """A cache for one session on this span, with room for `tokens` tokens of each row.

        Without them it grows as they come. Its first tokens are those of the `shared` pages.
        """
        return SpanCache(text_config(self.plan.config), self.span, tokens, shared, self.cache)

    def pages(self, cache: SpanCache, first: int, stop: int) -> Pages | None:
        """These tokens of a session as pages for others; None where it has none that can be."""
        return cache.pages(first, stop)

    def truncate(self, cache: SpanCache, tokens: int) -> None:
        """Forget all tokens but the first so many; raises ValueError where that cannot be done."""
        cache.truncate(tokens)

    def check(self, cache: SpanCache, tokens: int) -> None:
        """Raise AssertionError unless the cache is in order and holds so many tokens."""
        cache.check_integrity()
        assert cache.tokens == tokens

    @torch.no_grad()
    def run(self, crossing: Crossing, cache: SpanCache | None) -> Crossing | Returned:
        """One step through this span's blocks; `cache` None is a forward without memory.

        Returns what the next span takes or, after the model's last block, its whole output.
        Raises PeerFault for inputs that do not fit this model and StepFailed when a block fails;
        after either the cache is spoilt and the session has to be rebuilt.
        """
        self.admit(crossing)
        output, carried = self.forward(crossing, cache)
        return self.onward(crossing, output, carried, cache)

    def run_together(
        self, steps: Sequence[tuple[Crossing, SpanCache]]
    ) -> list[Crossing | Returned | ShardlineError]:
        """A step of each of several sessions, each with its own cache; in their order.

        What goes wrong with one is its own result, as `run` would raise it.
        """
        return self.together.run(steps)

    def pieces(self, crossing: Crossing, cache: SpanCache, tokens: int) -> list[Crossing]:
        """The same step in several of at most so many tokens; whole where it cannot be cut."""
        return self.together.pieces(crossing, cache, tokens)

    def joined(
        self, crossing: Crossing, parts: Sequence[Crossing | Returned]
    ) -> Crossing | Returned:
        """What the step gives, of what its pieces gave."""
        if all(isinstance(part, Returned) for part in parts):
            return joined_tree(cast("Sequence[Returned]", parts))
        return crossing.after(self.span.stop, joined_carried(cast("Sequence[Crossing]", parts)))

    def forward(
        self, crossing: Crossing, cache: Leaf, merged: Merged | None = None
    ) -> tuple[Tree, tuple[torch.Tensor, ...]]:
        """The last block's whole output, and what it hands on; without the checks of `run`."""
        carried = tuple(tensor.to(self.device) for tensor in crossing.carried)
        here: dict[int, torch.Tensor] = {}
        output: Tree = None
        for block, index in zip(self.blocks, crossing.order, strict=False):
            with BUILDING, self._around(block, index, merged):
                output = self._block(block, crossing.calls[index], carried, cache, here)
            carried = Returned(output).carried(tuple(link.output for link in self.plan.links))
        return output, carried

    def _around(
        self, block: int, call: int, merged: Merged | None
    ) -> AbstractContextManager[object]:
        """How this block's modules attend in this step."""
        configs, may_group = self._configs[block]
        if merged is not None:
            masks = [mask if mask is None else mask.to(self.device) for mask in merged.masks[call]]
            return attention_of(configs, merged.pieces, masks)
        return attention_of(configs) if may_group else contextlib.nullcontext()

    @functools.cached_property
    def _configs(self) -> dict[int, tuple[list[PreTrainedConfig], bool]]:
        """Of each block's modules, and whether lone sessions' heads may be grouped."""
        found: dict[int, tuple[list[PreTrainedConfig], bool]] = {}
        for block, module in self.blocks.items():
            held = (m.config for m in module.modules() if hasattr(m, "config"))
            configs = cast("list[PreTrainedConfig]", list({id(one): one for one in held}.values()))
            found[block] = configs, can_group(module, self.dtype)
        return found

    def onward(
        self,
        crossing: Crossing,
        output: Tree,
        carried: tuple[torch.Tensor, ...],
        cache: SpanCache | None,
    ) -> Crossing | Returned:
        """What the next span takes or, after the last block, its output."""
        if cache is not None:
            cache.tokens += crossing.tokens
        if self.span.stop < self.plan.blocks:
            return crossing.after(self.span.stop, carried)
        return Returned(map_leaves(output, lambda _, x: CACHE if _is_cache(x) else x))

    def admit(self, crossing: Crossing) -> None:
        """Raise PeerFault for what does not fit this span."""
        if crossing.start != self.span.start:
            raise PeerFault(f"a crossing to block {crossing.start}, this span is {self.span}")
        if crossing.start + len(crossing.order) != self.plan.blocks:
            raise PeerFault(f"a crossing of {len(crossing.order)} blocks at {crossing.start}")
        widths = tuple(int(tensor.shape[-1]) for tensor in crossing.carried)
        if widths != self.plan.widths:
            raise PeerFault(f"hidden states of width {widths}, not {self.plan.widths}")
        for index, link in enumerate(self.plan.links):
            for call in crossing.calls:
                if _at(call, link.inputs) != carried_marker(index):
                    raise PeerFault(f"a call without its hidden state at {link.inputs}")

    def _block(
        self,
        block: int,
        call: Call,
        carried: tuple[torch.Tensor, ...],
        cache: Leaf,
        here: dict[int, torch.Tensor],
    ) -> Tree:
        def fill(_: Path, leaf: Leaf) -> Leaf:
            if isinstance(leaf, torch.Tensor):  # the same tensor for every block that takes it
                if id(leaf) not in here:
                    here[id(leaf)] = leaf.to(self.device)
                return here[id(leaf)]
            if not isinstance(leaf, Marker):
                return leaf
            return cache if leaf == CACHE else carried[leaf.index]

        args, kwargs = map_leaves((call.args, call.kwargs), fill)
        try:
            return self.blocks[block](*args, **kwargs)
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise StepFailed(f"block {block} failed: {reason}") from error


def _is_cache(leaf: Leaf) -> bool:
    return isinstance(leaf, Cache | Handing)


def _at(call: Call, path: Path) -> Marker | None:
    """The marker at this place of a call's inputs, if there is one."""
    try:
        found = get((call.args, call.kwargs), path)
    except (LookupError, TypeError):
        return None
    return found if isinstance(found, Marker) else None


def load_span(
    plan: ChainPlan,
    span: Span,
    *,
    dtype: torch.dtype,
    device: torch.device,
    weights: Weights | None = None,
) -> LoadedSpan:
    """Read this span's tensors, and no others, from the checkpoint; hold them as `weights` says.

    Raises BlocksOutOfRange and CorruptWeights.
    """
    plan.check(span)
    if weights is None and not can_pack(dtype, device):
        return LoadedSpan(plan, span, _read(plan, span, dtype, device))
    hold = pack if weights is None else weights.quantise
    held: dict[int, nn.Module] = {}
    for index in range(span.start, span.stop):  # one at a time, so that one is in memory whole
        held |= _read(plan, Span(index, index + 1), dtype, device)
        hold(held[index])
    return LoadedSpan(plan, span, held)


def _read(
    plan: ChainPlan, span: Span, dtype: torch.dtype, device: torch.device
) -> dict[int, nn.Module]:
    def part(model: PreTrainedModel) -> None:
        blocks = cast("nn.ModuleList", model.get_submodule(plan.list_path))
        for index in range(len(blocks)):
            if index not in span:
                blocks[index] = nn.Identity()
        drop_outside(model, plan.list_path)
        model.all_tied_weights_keys = {}

    def wanted(block: int | None) -> bool:
        return block is not None and block in span

    model = load_part(plan, part, wanted, dtype=dtype, device=device)
    blocks = cast("nn.ModuleList", model.get_submodule(plan.list_path))
    return {index: blocks[index] for index in range(span.start, span.stop)}
