"""A span of a model's blocks with real weights.

Running a step is one pure call: a crossing and the session's cache in, the next crossing (or the
last block's result) out.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache

from shardline.codec import Marker
from shardline.core.errors import PeerFault, ShardlineError, StepFailed
from shardline.core.spans import Span
from shardline.model.attending import attention_of, can_group, prepare
from shardline.model.caches import SpanCache
from shardline.model.cross import CrossCache, SessionCache
from shardline.model.crossing import (
    CACHE,
    Call,
    Crossing,
    Returned,
    carried_marker,
    kept_marker,
    tensors_at,
    width_of,
)
from shardline.model.cutting import joined_carried, joined_tree
from shardline.model.library import text_config
from shardline.model.loading import BUILDING, drop_outside, load_part
from shardline.model.merging import Handing, Merged
from shardline.model.packed import PackedLinear, can_pack, pack
from shardline.model.pages import PagedLayer
from shardline.model.together import Together
from shardline.model.trees import Leaf, Path, Tree, leaves, map_leaves
from shardline.model.weights import QuantisedExperts, QuantisedLinear

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager

    from transformers import PreTrainedModel

    from shardline.model.chain import Chain, ChainPlan
    from shardline.model.pages import Pages
    from shardline.model.quantising import Weights

__all__ = ["LoadedSpan", "load_span"]

PAGE_BYTES: Final = 4096
_FORGETFUL: Final[PreTrainedConfig] = cast("Any", PreTrainedConfig)(num_hidden_layers=0)
"""Of a model that keeps no cache."""


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
        """Read every page of the weights once: they are memory-mapped, and the first step would.

        And compile what attends.
        """
        prepare(self.dtype, self.device)
        for parameter in self.parameters():
            parameter.detach().reshape(-1).view(torch.uint8)[::PAGE_BYTES].sum()

    def new_cache(self, tokens: int | None = None, shared: Sequence[Pages] = ()) -> SessionCache:
        """A cache for one session on this span, with room for `tokens` tokens of each row.

        Without them it grows as they come. Its first tokens are those of the `shared` pages. Blocks
        that remember nothing have one without layers.
        """
        chain = self._chain
        config = text_config(self.plan.config) if chain.caches else _FORGETFUL
        span = Span(self.span.start - chain.span.start, self.span.stop - chain.span.start)
        own = SpanCache(config, span, tokens, shared, self.cache)
        return CrossCache(own) if chain.kept else own

    def pages(self, cache: SessionCache, first: int, stop: int) -> Pages | None:
        """These tokens of a session as pages for others; None where it has none that can be."""
        return cache.pages(first, stop)

    def truncate(self, cache: SessionCache, tokens: int) -> None:
        """Forget all tokens but the first so many; raises ValueError where that cannot be done."""
        cache.truncate(tokens)

    def check(self, cache: SessionCache, tokens: int) -> None:
        """Raise AssertionError unless the cache is in order and holds so many tokens."""
        cache.check_integrity()
        assert cache.held_tokens == tokens

    @torch.no_grad()
    def run(self, crossing: Crossing, cache: SessionCache | None) -> Crossing | Returned:
        """One step through this span's blocks; `cache` None is a forward without memory.

        Returns what the next span takes or, after the model's last block, its whole output.
        Raises PeerFault for inputs that do not fit this model and StepFailed when a block fails;
        after either the cache is spoilt and the session has to be rebuilt.
        """
        self.admit(crossing)
        output, carried = self.forward(crossing, cache)
        return self.onward(crossing, output, carried, cache)

    def run_together(
        self, steps: Sequence[tuple[Crossing, SessionCache]]
    ) -> list[Crossing | Returned | ShardlineError]:
        """A step of each of several sessions, each with its own cache; in their order.

        What goes wrong with one is its own result, as `run` would raise it. Steps of blocks that
        remember nothing are run one by one: each is of many tokens, and reads the weights for all.
        So are those of blocks that attend to an encoder's states: each session has its own.
        """
        if not self._merges:
            return [self.together.alone(crossing, cache) for crossing, cache in steps]
        return self.together.run(cast("Sequence[tuple[Crossing, SpanCache]]", steps))

    def pieces(self, crossing: Crossing, cache: SessionCache, tokens: int) -> list[Crossing]:
        """The same step in several of at most so many tokens; whole where it cannot be cut.

        It cannot where tokens see those after them, as in blocks that remember nothing.
        """
        if not self._merges:
            return [crossing]
        return self.together.pieces(crossing, cast("SpanCache", cache), tokens)

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
        kept = self._kept(crossing, cache)
        here: dict[int, torch.Tensor] = {}
        output: Tree = None
        for block, index in zip(self.blocks, crossing.order, strict=False):
            with BUILDING, self._around(block, index, merged):
                handed = {carried_marker(at): tensor for at, tensor in enumerate(carried)}
                marked = {CACHE: cache, **kept, **handed}
                output = self._block(block, crossing.calls[index], marked, here)
            carried = tensors_at(output, self.plan.joints[block].gives)
        return output, carried

    def _kept(self, crossing: Crossing, cache: Leaf) -> dict[Marker, Leaf]:
        """An encoder's states, by what stands for them: the step's, or those of the first one."""
        kept = tuple(states.to(self.device) for states in crossing.kept)
        if isinstance(cache, CrossCache):
            kept = cache.keep(kept)
        return {kept_marker(at): states for at, states in enumerate(kept)}

    def _around(
        self, block: int, call: int, merged: Merged | None
    ) -> AbstractContextManager[object]:
        """How this block's modules attend in this step."""
        configs, may_group = self._configs[block]
        if merged is not None:
            masks = [mask if mask is None else mask.to(self.device) for mask in merged.masks[call]]
            return attention_of(configs, merged.handing, masks, may_group=may_group)
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
        cache: SessionCache | None,
    ) -> Crossing | Returned:
        """What the next span takes or, after a chain's last block, its output."""
        if cache is not None:
            cache.tokens += crossing.tokens
        chain = self._chain
        if self.span.stop < chain.span.stop:
            return crossing.after(self.span.stop, carried)
        whole = map_leaves(output, lambda _, x: CACHE if _is_cache(x) else x)
        return Returned(whole, tuple(end.path for end in chain.ends))

    @functools.cached_property
    def _merges(self) -> bool:
        """Whether steps of several sessions may be tried as one, and long ones in pieces."""
        return self._chain.caches and not self._chain.kept

    @functools.cached_property
    def _chain(self) -> Chain:
        """The one that this span's blocks are of."""
        return self.plan.chain_at(self.span.start)

    def admit(self, crossing: Crossing) -> None:
        """Raise PeerFault for what does not fit this span."""
        if crossing.start != self.span.start:
            raise PeerFault(f"a crossing to block {crossing.start}, this span is {self.span}")
        stop = self._chain.span.stop
        if crossing.start + len(crossing.order) != stop or self.span.stop > stop:
            raise PeerFault(f"a crossing of {len(crossing.order)} blocks at {crossing.start}")
        if crossing.kept and len(crossing.kept) != len(self._chain.kept):
            raise PeerFault(f"{len(crossing.kept)} encoder's states, not {len(self._chain.kept)}")
        given = self._form(tuple(tensor.shape) for tensor in crossing.carried)
        if given != self._takes:
            raise PeerFault(f"hidden states of rank and width {given}, not {self._takes}")
        for index, wanted in {*zip(crossing.order, self._markers, strict=True)}:
            call = crossing.calls[index]
            marked = tuple(
                (path, leaf)
                for path, leaf in leaves((call.args, call.kwargs))
                if isinstance(leaf, Marker) and leaf != CACHE and (path, leaf) not in self._stays
            )
            if tuple(sorted(marked, key=str)) != wanted:
                raise PeerFault(f"a call whose hidden states are elsewhere than at {wanted}")
            if self._chain.kept and self._hides_states(call):
                raise PeerFault("an encoder's states within a call, where nobody counts them")

    def _hides_states(self, call: Call) -> bool:
        """Whether a cache might be filled from states that are not among the crossing's `kept`.

        Their place must not be left out either: what a block takes by position it also takes by
        name, and there nobody would look.
        """
        given = dict(leaves((call.args, call.kwargs)))
        return any(isinstance(leaf, Marker) and leaf == CACHE for leaf in given.values()) and any(
            path not in given
            or (given[path] is not None and (path, given[path]) not in self._stays)
            for path in self._chain.kept
        )

    @functools.cached_property
    def _markers(self) -> tuple[tuple[tuple[Path, Marker], ...], ...]:
        """Where each block that is still ahead is handed what, the same object for equal ones."""
        ahead = self.plan.joints[self.span.start : self._chain.span.stop]
        found = [
            tuple(sorted(((p.path, carried_marker(k)) for k, p in enumerate(j.takes)), key=str))
            for j in ahead
        ]
        same = {each: each for each in found}
        return tuple(same[each] for each in found)

    @functools.cached_property
    def _stays(self) -> set[tuple[Path, Marker]]:
        """Where a block may be given an encoder's states that were sent before."""
        return {(path, kept_marker(at)) for at, path in enumerate(self._chain.kept)}

    @functools.cached_property
    def _takes(self) -> tuple[tuple[int, int | None], ...]:
        """What the first block is handed."""
        return self._form(place.shape for place in self.plan.joints[self.span.start].takes)

    def _form(self, shapes: Iterable[tuple[int, ...]]) -> tuple[tuple[int, int | None], ...]:
        """Ranks, and widths where it is known which size they are: of texts."""
        return tuple((len(s), width_of(s) if self.plan.tokens else None) for s in shapes)

    def _block(
        self,
        block: int,
        call: Call,
        marked: dict[Marker, Leaf],
        here: dict[int, torch.Tensor],
    ) -> Tree:
        def fill(_: Path, leaf: Leaf) -> Leaf:
            if isinstance(leaf, torch.Tensor):  # the same tensor for every block that takes it
                if id(leaf) not in here:
                    here[id(leaf)] = leaf.to(self.device)
                return here[id(leaf)]
            if not isinstance(leaf, Marker):
                return leaf
            if leaf not in marked:
                raise PeerFault(f"a step that names {leaf.name} {leaf.index}, which nobody sent")
            return marked[leaf]

        args, kwargs = map_leaves((call.args, call.kwargs), fill)
        try:
            return self.blocks[block](*args, **kwargs)
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise StepFailed(f"block {block} failed: {reason}") from error


def _is_cache(leaf: Leaf) -> bool:
    return isinstance(leaf, Cache | Handing)


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
    chains = [c for c in plan.chains if c.span.start < span.stop and span.start < c.span.stop]

    def part(model: PreTrainedModel) -> None:
        for chain in chains:
            blocks = _list(model, chain)
            for index in range(len(blocks)):
                if chain.span.start + index not in span:
                    blocks[index] = nn.Identity()
        drop_outside(model, [chain.path for chain in chains])
        model.all_tied_weights_keys = {}

    def wanted(block: int | None) -> bool:
        return block is not None and block in span

    model = load_part(plan, part, wanted, dtype=dtype, device=device)
    return {
        chain.span.start + index: block
        for chain in chains
        for index, block in enumerate(_list(model, chain))
        if chain.span.start + index in span
    }


def _list(model: PreTrainedModel, chain: Chain) -> nn.ModuleList:
    return cast("nn.ModuleList", model.get_submodule(chain.path))
