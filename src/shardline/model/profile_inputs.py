"""What blocks are given in a step of any size, and blocks with made-up weights, for measuring.

The model's own forward runs on the meta device, with blocks that do nothing but watch: so each
block's inputs are known in kind and shape without weights, for any model. Their values are made up,
as are the weights; a step's time does not follow from them. (Where it does, as with experts that
tokens choose, chance chooses evenly.)
"""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from transformers.cache_utils import Cache

from shardline.codec import Marker
from shardline.core.errors import Unsupported
from shardline.model.crossing import CACHE, Call, Crossing, carried_marker
from shardline.model.ghost import extend_ghost, layer_kinds
from shardline.model.library import quiet, text_config
from shardline.model.loading import BUILDING
from shardline.model.packed import can_pack, pack
from shardline.model.route import writes_text
from shardline.model.tracing import probe
from shardline.model.trees import Leaf, Path, Tree, get, leaves, map_leaves
from shardline.model.watching import Watch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shardline.core.spans import Span
    from shardline.model.chain import ChainPlan

__all__ = ["Shapes", "same_blocks"]

TILE: Final = 2**20
"""Made-up values in a row; longer parameters repeat them. Pages that are never written would all
be one page of zeros, and quicker to read than any weights."""
SPREAD: Final = 0.02

_Inputs = tuple[tuple[Any, ...], dict[str, Any]]


class Shapes:
    """One model on the meta device: what its blocks are, and what each is given."""

    def __init__(self, plan: ChainPlan, dtype: torch.dtype) -> None:
        """Builds the model's modules, which takes up to a second for the largest models.

        Raises Unsupported for a model whose ends cannot be followed on shapes.
        """
        with BUILDING, quiet():
            self._probe = probe(plan.config, dtype)
        self._plan = plan
        self._dtype = dtype
        self._writes = writes_text(plan.config)
        self._seen: list[_Inputs] = []
        self.blocks = plan.modules(self._probe.model)
        if self._writes:
            for index, block in enumerate(self.blocks):
                block.forward = functools.partial(self._watch, index)

    def crossing(
        self, span: Span, *, batch: int, tokens: int, context_tokens: int, device: torch.device
    ) -> Crossing:
        """A step into this span, of sequences that have so many positions already."""
        stop = self._plan.chain_at(span.start).span.stop
        calls = self._calls(batch, tokens, context_tokens)[span.start : stop]
        made: dict[int, torch.Tensor] = {}

        def fill(_: Path, leaf: Leaf) -> Leaf:
            if not isinstance(leaf, torch.Tensor):
                return leaf
            if id(leaf) not in made:
                made[id(leaf)] = _values(leaf, context_tokens, device)
            return made[id(leaf)]

        order = self._order(span, stop)
        needed = calls[: max(order) + 1]
        real = tuple(Call(*map_leaves((call.args, call.kwargs), fill)) for call in needed)
        given = self._seen[span.start]
        carried = tuple(
            torch.randn(get(given, place.path).shape, dtype=self._dtype, device=device)
            for place in self._plan.joints[span.start].takes
        )
        return Crossing(span.start, carried, real, order)

    def _order(self, span: Span, stop: int) -> tuple[int, ...]:
        """Which calls the blocks up to `stop` get: those after the span any that has their form."""
        joints = self._plan.joints[span.start : stop]
        forms = [tuple(place.path for place in joint.takes) for joint in joints]
        first = {form: place for place, form in reversed(list(enumerate(forms)))}
        inside = span.stop - span.start
        return (*range(inside), *(first[form] for form in forms[inside:]))

    def block(self, index: int, device: torch.device) -> nn.Module:
        """A block of this one's structure, with made-up weights, held as a node holds them."""
        watching = self.blocks[index].__dict__.pop("forward", None)
        try:
            made = copy.deepcopy(self.blocks[index]).to_empty(device=device)
        finally:
            if watching is not None:
                self.blocks[index].forward = watching
        tile = torch.randn(TILE, device=device) * SPREAD
        with torch.no_grad():
            for parameter in made.parameters():
                _make_up(parameter.data, tile)
            for buffer in made.buffers():
                _make_up(buffer, tile)
        if can_pack(self._dtype, device):
            pack(made)
        return made.eval()

    def _calls(self, batch: int, tokens: int, context_tokens: int) -> list[Call]:
        """What each block is given, as tensors without storage and markers."""
        try:
            given: dict[str, Any] = {}
            if context_tokens and self._writes:
                output = self._forward(batch, context_tokens, given)
                given = _remembered(output, self._seen[0])
            self._forward(batch, tokens, given)
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise Unsupported(f"{self._plan.architecture} cannot be measured: {reason}") from error
        return [self._call(index, inputs) for index, inputs in enumerate(self._seen)]

    def _forward(self, batch: int, tokens: int, given: dict[str, Any]) -> Mapping[str, Any]:
        self._seen = []
        with torch.no_grad(), BUILDING, quiet():
            if self._writes:
                return self._probe.forward((batch, tokens), return_dict=True, **given)
            watch = Watch(self._probe.model, set(self.blocks))
            with watch.open():
                output = self._probe.forward((batch, tokens))
            self._seen = [watch.calls[block][0].inputs for block in self.blocks]
            return output

    def _watch(self, index: int, *args: Tree, **kwargs: Tree) -> Tree:
        """Instead of a block's forward: see what it is given, and return what it might."""
        inputs = (args, kwargs)
        self._seen.append(inputs)
        carried = [get(inputs, place.path) for place in self._plan.joints[index].takes]
        cache = _cache_in(inputs)
        if cache is not None:
            extend_ghost(cache, index, *carried[0].shape[:2])

        chain = self._plan.chain_at(index)
        last = index == chain.span.stop - 1
        ends = {end.path: end.like for end in chain.ends} if last else {}

        def fill(path: Path, leaf: Leaf) -> Leaf:
            like = ends.get(path)
            if like is not None:
                return torch.empty_like(carried[like])
            if not isinstance(leaf, Marker):
                return leaf
            return cache if leaf == CACHE else torch.empty_like(carried[leaf.index])

        return map_leaves(self._plan.joints[index].template, fill)

    def _call(self, index: int, inputs: _Inputs) -> Call:
        places = {place.path: k for k, place in enumerate(self._plan.joints[index].takes)}

        def mark(path: Path, leaf: Leaf) -> Leaf:
            if path in places:
                return carried_marker(places[path])
            return CACHE if isinstance(leaf, Cache) else leaf

        return Call(*map_leaves(inputs, mark))


def same_blocks(plan: ChainPlan, blocks: Sequence[nn.Module]) -> list[tuple[int, ...]]:
    """The blocks by kind: equal modules with equal shapes, and equal caches."""
    kinds: dict[tuple[Any, ...], list[int]] = {}
    caches = layer_kinds(text_config(plan.config)) if plan.writes else ()
    for index, block in enumerate(blocks):
        shapes = tuple((name, tuple(p.shape), p.dtype) for name, p in block.named_parameters())
        grows, fixed = plan.cache_elements_per_token[index], plan.cache_elements_fixed[index]
        key = (repr(block), shapes, caches[index : index + 1], grows, fixed)
        kinds.setdefault(key, []).append(index)
    return [tuple(found) for found in kinds.values()]


def _remembered(output: Mapping[str, Any], inputs: _Inputs) -> dict[str, Any]:
    """The cache that a forward gave back, by the name that the next forward takes it by."""
    cache = _cache_in(inputs)
    name = next((name for name, value in output.items() if value is cache), None)
    return {} if cache is None or name is None else {name: cache}


def _cache_in(inputs: _Inputs) -> Cache | None:
    return next((leaf for _, leaf in leaves(inputs) if isinstance(leaf, Cache)), None)


def _values(shape: torch.Tensor, context_tokens: int, device: torch.device) -> torch.Tensor:
    """A tensor like this one: noise, positions from the context's end on, nothing masked."""
    size, dtype = tuple(shape.shape), shape.dtype
    if dtype == torch.bool:
        return torch.ones(size, dtype=dtype, device=device)
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(size, dtype=dtype, device=device)
    positions = torch.arange(size[-1] if size else 1, dtype=dtype, device=device) + context_tokens
    return positions.expand(size) if size else positions[0]


def _make_up(values: torch.Tensor, tile: torch.Tensor) -> None:
    """Fill this tensor, in place, with noise; whole numbers with zeros."""
    if not values.is_floating_point():
        values.zero_()
        return
    flat = values.view(-1)
    for start in range(0, flat.numel(), TILE):
        part = flat[start : start + TILE]
        part.copy_(tile[: part.numel()])
