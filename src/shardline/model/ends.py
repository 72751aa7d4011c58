"""The caller's side: a model's own ends with stubs in place of its blocks (PAPER section 1).

The model's own forward and `generate` run unchanged. Each stub only writes down what its block
was given; the last one of a chain sends everything as one crossing and returns what the last block
returned. A model of several chains sends one crossing for each, as its forward comes to them.
A value that a stub returns has no storage: code between blocks that computes with it fails at
once, and a block that gets anything else than what the stub before it returned is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch import nn
from transformers.cache_utils import Cache

from shardline.codec import Marker
from shardline.core.errors import Unsupported
from shardline.model.crossing import CACHE, Call, Crossing, Returned, carried_marker, kept_marker
from shardline.model.fusing import fuse
from shardline.model.ghost import (
    check_ghost,
    extend_ghost,
    ghost_keeps,
    layer_kinds,
    seal_ghost,
)
from shardline.model.library import read_generation, text_config
from shardline.model.loading import load_part
from shardline.model.packed import can_pack, pack_head
from shardline.model.trees import Leaf, Path, Tree, get, leaves, map_leaves, signature

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from shardline.model.chain import Chain, ChainPlan, Joint

__all__ = ["RunBlocks", "load_ends"]

RunBlocks = Callable[[Cache | None, Crossing], Returned]
"""Runs the whole chain that begins with the crossing's first block, once. The cache is the one that
the caller's forward was given: it names the session (None: no session, nothing is remembered).
Called in the thread of the forward. What came back passed `crossing.check`."""

_PER_BLOCK: Final = ("output_hidden_states", "output_attentions", "output_router_logits")


class _Recording:
    """One forward, as far as it has come."""

    def __init__(
        self, chain: Chain, carried: tuple[torch.Tensor, ...], cache: Cache | None
    ) -> None:
        self.chain = chain
        self.carried = carried
        self.cache = cache
        self.calls: list[Call] = []
        self.kept: dict[int, torch.Tensor] = {}
        """An encoder's states, by their places in the chain's `kept`."""
        self.given: dict[Path, Leaf] = {}
        """What the last block was given, a level deep, but for what is carried."""
        self.placeholders: tuple[torch.Tensor, ...] = carried

    @property
    def block(self) -> int:
        """Which block of the model comes next."""
        return self.chain.span.start + len(self.calls)

    def keep(self, path: Path, states: torch.Tensor) -> Marker:
        """Note an encoder's states; what stands for them in a call. Raises Unsupported."""
        at = self.chain.kept.index(path)
        if states is not self.kept.setdefault(at, states):
            raise Unsupported(f"blocks are given different states of an encoder at {path}")
        return kept_marker(at)

    def fresh(self) -> tuple[torch.Tensor, ...]:
        """The encoder's states, unless the nodes keep them; raises Unsupported for others."""
        given = tuple(self.kept[at] for at in sorted(self.kept))
        kept = () if self.cache is None else ghost_keeps(self.cache)
        if not kept:
            return given
        pairs = zip(kept, given, strict=False)
        if len(given) != len(kept) or not all(a is b or torch.equal(a, b) for a, b in pairs):
            raise Unsupported("an encoder's states were changed within a session: begin another")
        return ()


class _Stubs(threading.local):
    """What the stubs of one model share; each thread records a forward of its own."""

    def __init__(self, plan: ChainPlan, run: RunBlocks) -> None:
        self.plan = plan
        self.run = run
        self.kinds = layer_kinds(text_config(plan.config)) if plan.caches else ()
        self.starts = {chain.span.start: chain for chain in plan.chains}
        self.recording: _Recording | None = None

    def call(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tree:
        """What the stub of block `index` returns for these inputs."""
        inputs = (args, kwargs)
        if index in self.starts:
            self.recording = self._begin(self.starts[index], inputs)
        recording = self.recording
        if recording is None or recording.block != index:
            raise Unsupported(f"{self.plan.architecture} skipped to block {index} of its chain")
        self._record(recording, index, inputs)
        if recording.cache is not None:
            self._extend(recording, recording.cache, index)
        if index < recording.chain.span.stop - 1:
            return self._placeholder(recording, self.plan.joints[index])
        self.recording = None
        return self._send(recording)

    @staticmethod
    def _extend(recording: _Recording, cache: Cache, index: int) -> None:
        """Let a layer of the caller's cache see what its block will have seen."""
        batch, tokens = recording.carried[0].shape[:2]
        states = sum(int(tensor.shape[1]) for tensor in recording.fresh())
        extend_ghost(cache, index - recording.chain.span.start, batch, tokens, states)

    def _begin(self, chain: Chain, inputs: Tree) -> _Recording:
        if torch.compiler.is_compiling():
            raise Unsupported("a model whose blocks are remote cannot be compiled")
        caches = {id(x): x for _, x in leaves(inputs) if isinstance(x, Cache)}
        if len(caches) > 1:
            raise Unsupported(f"{self.plan.architecture} uses {len(caches)} caches at once")
        cache = next(iter(caches.values()), None)
        if cache is not None:
            kinds = self.kinds[: len(chain.span)] if chain.caches else ()
            check_ghost(cache, kinds, crosses=bool(chain.kept))
        try:
            taken = self.plan.joints[chain.span.start].takes
            carried = tuple(get(inputs, place.path) for place in taken)
        except (LookupError, TypeError):
            first = f"block {chain.span.start}"
            raise Unsupported(
                f"{first} was not given its inputs where the probe saw them"
            ) from None
        return _Recording(chain, carried, cache)

    def _record(self, recording: _Recording, index: int, inputs: Tree) -> None:
        """Write the call down, with markers for what is carried and for the cache."""
        taken = [place.path for place in self.plan.joints[index].takes]
        if self._repeats(recording, taken, inputs):
            recording.calls.append(recording.calls[-1])
            return
        places = {path: k for k, path in enumerate(taken)}
        given: set[int] = set()

        def leaf(path: Path, value: Leaf) -> Leaf:
            if path in places and value is recording.placeholders[places[path]]:
                given.add(places[path])
                return carried_marker(places[path])
            if isinstance(value, Cache):
                return CACHE
            if path in recording.chain.kept and isinstance(value, torch.Tensor):
                return recording.keep(path, value)
            if isinstance(value, torch.Tensor) and (value.is_meta or path in places):
                raise Unsupported(
                    f"block {index} was given at {path} what no block returned just before: the"
                    " model computes between its blocks, and the chain route would be wrong"
                )
            if value is None or isinstance(value, bool | int | float | str | torch.Tensor):
                return value
            raise Unsupported(f"block {index} takes a {type(value).__name__} at {path}")

        args, kwargs = map_leaves(inputs, leaf)
        if len(given) != len(places):
            raise Unsupported(f"block {index} was not given its inputs where the probe saw them")
        recording.calls.append(Call(args, kwargs))

    def _repeats(self, recording: _Recording, taken: list[Path], inputs: Tree) -> bool:
        """Whether this block is given the very objects that the one before it was.

        Most architectures do so; then nothing has to be walked again.
        """
        given: dict[Path, Leaf] = {(0, place): value for place, value in enumerate(inputs[0])}
        given |= {(1, name): value for name, value in inputs[1].items()}
        carried = [given.pop(path, None) for path in taken]
        before, recording.given = recording.given, given
        return (
            bool(recording.calls)
            and len(carried) == len(recording.placeholders)
            and all(a is b for a, b in zip(carried, recording.placeholders, strict=True))
            and given.keys() == before.keys()
            and all(value is before[path] for path, value in given.items())
        )

    def _placeholder(self, recording: _Recording, joint: Joint) -> Tree:
        """A block's output as the model returns it, without storage.

        Of the shapes of what the block was handed, or where it changes those, of the probe's.
        """
        before = recording.placeholders
        shapes = [tensor.shape for tensor in before]
        after = self.plan.joints[recording.block].takes
        if [place.shape for place in after] != [place.shape for place in joint.takes]:
            shapes = [torch.Size(place.shape) for place in after]
        fresh = tuple(torch.empty(shape, dtype=before[0].dtype, device="meta") for shape in shapes)
        recording.placeholders = fresh
        return _fill(joint.template, fresh, recording.cache)

    def _send(self, recording: _Recording) -> Tree:
        kept, order = _unique(recording.calls)
        chain = recording.chain
        start, states = chain.span.start, recording.fresh()
        crossing = Crossing(start, recording.carried, kept, order, chain.ends, states)
        returned = self.run(recording.cache, crossing)
        crossing.check(returned)
        if recording.cache is not None:
            seal_ghost(recording.cache, crossing.tokens, states)
        device = recording.carried[0].device
        moved = map_leaves(
            returned.output,
            lambda _, leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf,
        )
        return _fill(moved, (), recording.cache)


def _unique(calls: list[Call]) -> tuple[tuple[Call, ...], tuple[int, ...]]:
    """Equal calls once, and for each block which of them it gets."""
    kept: list[Call] = []
    places: dict[tuple[Any, ...], int] = {}
    order: list[int] = []
    last: Call | None = None
    for call in calls:
        if call is not last:
            key = signature((call.args, call.kwargs))
            if key not in places:
                places[key] = len(kept)
                kept.append(call)
            order.append(places[key])
        else:
            order.append(order[-1])
        last = call
    return tuple(kept), tuple(order)


def _fill(tree: Tree, carried: tuple[torch.Tensor, ...], cache: Cache | None) -> Tree:
    def leaf(_: Path, value: Leaf) -> Leaf:
        if not isinstance(value, Marker):
            return value
        return cache if value == CACHE else carried[value.index]

    return map_leaves(tree, leaf)


class _Stub(nn.Module):
    """Stands where a block was; answers attribute reads as that block would, without weights."""

    def __init__(self, stubs: _Stubs, index: int, original: nn.Module) -> None:
        super().__init__()
        self._stubs = stubs
        self._index = index
        # Not registered: a submodule's weights on the meta device would count as missing.
        object.__setattr__(self, "_original", original)

    def forward(self, *args: Tree, **kwargs: Tree) -> Tree:
        return self._stubs.call(self._index, args, kwargs)

    def __getattr__(self, name: str) -> Tree:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_original"], name)


def load_ends(
    plan: ChainPlan, run: RunBlocks, *, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    """The model with real embeddings, last norm and head, and with its blocks elsewhere.

    Its forward and `generate` are the architecture's own; each forward calls `run` once for every
    chain that it goes through. Asking
    for what only a block knows (hidden states, attentions), for a static cache or for beam search
    raises Unsupported. Raises CorruptWeights.
    """
    stubs = _Stubs(plan, run)

    def part(model: PreTrainedModel) -> None:
        for chain in plan.chains:
            blocks = cast("nn.ModuleList", model.get_submodule(chain.path))
            for index, block in enumerate(list(blocks)):
                blocks[index] = _Stub(stubs, chain.span.start + index, block)

    model = load_part(plan, part, lambda block: block is None, dtype=dtype, device=device)
    if can_pack(dtype, device):
        pack_head(model)
        fuse(model)
    if model.can_generate():
        model.generation_config = read_generation(plan.model_dir) or model.generation_config
        model.generation_config.disable_compile = True
    model.register_forward_pre_hook(_refuse, with_kwargs=True)
    return model


def _refuse(model: nn.Module, _args: Tree, kwargs: Mapping[str, Any]) -> None:
    config = cast("PreTrainedModel", model).config
    for name in _PER_BLOCK:
        asked = kwargs.get(name)
        if asked or (asked is None and getattr(config, name, False)):
            raise Unsupported(f"{name} asks for what only the nodes' blocks know")
