"""A span of a model's blocks with real weights, and the cache a session keeps on it.

Running a step is one pure call: a crossing and the session's cache in, the next crossing (or the
last block's result) out. The trap that the cache here closes: Transformers' cache answers "how
long" from layer 0, which is empty on every node but the first, and wrong lengths give wrong
tokens without any error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch import nn
from transformers.cache_utils import Cache, CacheLayerMixin, DummyLayer, DynamicCache

from shardline.codec import Marker
from shardline.core.errors import PeerFault, StepFailed
from shardline.model.crossing import CACHE, Call, Crossing, Returned, carried_marker
from shardline.model.library import text_config
from shardline.model.loading import BUILDING, drop_outside, load_part
from shardline.model.trees import Leaf, Path, Tree, get, map_leaves

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedConfig, PreTrainedModel

    from shardline.core.spans import Span
    from shardline.model.chain import ChainPlan

__all__ = ["LoadedSpan", "SpanCache", "load_span"]

PAGE_BYTES: Final = 4096


class SpanCache(DynamicCache):
    """One session's cache on one span: layers that the span does not hold cannot be asked.

    With a dummy in their places, Transformers' own code takes the first layer that is held for
    the sequence's length and mask sizes. `tokens` counts for spans without attention.
    """

    def __init__(self, config: PreTrainedConfig, span: Span) -> None:
        super().__init__(config=config)
        self.tokens = 0
        for index in range(len(self.layers)):
            if index not in span:
                self.layers[index] = cast("CacheLayerMixin", DummyLayer())

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens held by this layer or, where it holds none of its own, by this span."""
        if layer_idx < len(self.layers) and isinstance(self.layers[layer_idx], CacheLayerMixin):
            return int(super().get_seq_length(layer_idx))
        return self.tokens

    @property
    def memory_bytes(self) -> int:
        """Bytes of all tensors held."""
        held: list[Any] = []
        for layer in self.layers:
            fields: dict[str, Any] = vars(layer)
            held += [leaf for value in fields.values() for leaf in _values(value)]
        return sum(t.nbytes for t in held if isinstance(t, torch.Tensor))


def _values(value: Leaf) -> list[Any]:
    return list(cast("Mapping[Any, Any]", value).values()) if isinstance(value, dict) else [value]


class LoadedSpan:
    """Blocks [start, stop) of a model, ready to run; made by `load_span`."""

    def __init__(self, plan: ChainPlan, span: Span, blocks: dict[int, nn.Module]) -> None:
        self.plan = plan
        self.span = span
        self.blocks = blocks

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.parameters()[0].device

    def parameters(self) -> list[nn.Parameter]:
        """Every parameter held."""
        return [p for block in self.blocks.values() for p in block.parameters()]

    @property
    def memory_bytes(self) -> int:
        """Bytes of all parameters held."""
        return sum(parameter.nbytes for parameter in self.parameters())

    def part(self, span: Span) -> LoadedSpan:
        """The same blocks seen as a span within this one; the weights are shared."""
        held = {index: self.blocks[index] for index in range(span.start, span.stop)}
        return LoadedSpan(self.plan, span, held)

    def warm(self) -> None:
        """Read every page of the weights once: they are memory-mapped, and the first step would."""
        for parameter in self.parameters():
            parameter.detach().reshape(-1).view(torch.uint8)[::PAGE_BYTES].sum()

    def new_cache(self) -> SpanCache:
        """An empty cache for one session on this span."""
        return SpanCache(text_config(self.plan.config), self.span)

    @torch.no_grad()
    def run(self, crossing: Crossing, cache: SpanCache | None) -> Crossing | Returned:
        """One step through this span's blocks; `cache` None is a forward without memory.

        Returns what the next span takes or, after the model's last block, its whole output.
        Raises PeerFault for inputs that do not fit this model and StepFailed when a block fails;
        after either the cache is spoilt and the session has to be rebuilt.
        """
        self._admit(crossing)
        carried = tuple(tensor.to(self.device) for tensor in crossing.carried)
        here: dict[int, torch.Tensor] = {}
        output: Tree = None
        for block, index in zip(self.blocks, crossing.order, strict=False):
            output = self._block(block, crossing.calls[index], carried, cache, here)
            carried = Returned(output).carried(tuple(link.output for link in self.plan.links))
        if cache is not None:
            cache.tokens += crossing.tokens
        if self.span.stop < self.plan.blocks:
            return crossing.after(self.span.stop, carried)
        return Returned(map_leaves(output, lambda _, x: CACHE if isinstance(x, Cache) else x))

    def _admit(self, crossing: Crossing) -> None:
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
        cache: SpanCache | None,
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
            with BUILDING:
                return self.blocks[block](*args, **kwargs)
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise StepFailed(f"block {block} failed: {reason}") from error


def _at(call: Call, path: Path) -> Marker | None:
    """The marker at this place of a call's inputs, if there is one."""
    try:
        found = get((call.args, call.kwargs), path)
    except (LookupError, TypeError):
        return None
    return found if isinstance(found, Marker) else None


def load_span(
    plan: ChainPlan, span: Span, *, dtype: torch.dtype, device: torch.device
) -> LoadedSpan:
    """Read this span's tensors, and no others, from the checkpoint.

    Raises BlocksOutOfRange and CorruptWeights.
    """
    plan.check(span)

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
    held = {index: blocks[index] for index in range(span.start, span.stop)}
    return LoadedSpan(plan, span, held)
