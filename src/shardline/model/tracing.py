"""Finds the chains: builds the model on the meta device and watches one probe forward."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming

from shardline.core.errors import NoChain, Unsupported
from shardline.core.spans import Span
from shardline.model.chain import Chain, ChainPlan, Joint
from shardline.model.crossing import RANKS, End, width_of
from shardline.model.graph.example_inputs import TOKENS, OnShapes, configs_in, example_inputs
from shardline.model.library import quiet, text_config
from shardline.model.loading import BUILDING
from shardline.model.remembering import (
    cache_elements,
    cache_vectors,
    check_numbers,
    with_memory,
)
from shardline.model.route import build_on_meta, model_config, writes_text
from shardline.model.trees import Tree, get, leaves
from shardline.model.watching import Watch, joints_of, lists_of, read_elsewhere

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = ["Probe", "probe", "trace"]

PROBE_TOKENS: Final = 4
MINOR: Final = 16
"""A chain with a MINORth of the largest one's parameters is not worth a round trip: the caller
keeps its blocks."""
_GRAPH: Final = "the graph route serves it (`shardline run`, `shardline cut`)"
_FAULTS: Final = (RuntimeError, NotImplementedError, TypeError, ValueError, LookupError)


@dataclass(frozen=True, slots=True)
class Probe:
    """A model without weights, and a forward of it."""

    model: PreTrainedModel
    forward: Callable[..., Any]
    """The model's own, on shapes: no tensor has values. It takes another size of the inputs, as
    (batch, tokens), and more inputs by name. Raises NoChain where no inputs are known for it."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A chain, and what the probe saw of it."""

    path: str
    blocks: list[nn.Module]
    joints: tuple[Joint, ...]
    first: int
    """Which call of all its first one was."""

    @property
    def elements(self) -> int:
        return sum(map(_elements, self.blocks))


def trace(model_dir: Path) -> ChainPlan:
    """Learn from `config.json` alone how this model is cut; reads no weights.

    Raises NoSuchModel, CorruptWeights, Unsupported (code of its own, quantised) or NoChain.
    """
    config = model_config(model_dir)
    writes = writes_text(config)
    with BUILDING, quiet(), torch.no_grad():
        # bfloat16, because the meta kernel of fused experts wants it.
        probed = probe(config, torch.bfloat16 if writes else torch.float32)
        lists = lists_of(probed.model)
        if not lists:
            raise NoChain(f"{_name(probed)} has no list of repeated blocks: {_GRAPH}")
        blocks = {block for members in lists.values() for block in members}
        watch = Watch(probed.model, blocks)
        with watch.open():
            _run(probed)
        chains = _choose(probed, lists, watch)
        if writes:
            chains = [max(chains, key=lambda found: found.elements)]
        else:
            _try(probed, chains, watch)
        plan = _plan(model_dir, config, probed, chains, watch.cache if writes else None)
        return with_memory(plan, probed.model, probed.forward)


def probe(config: PreTrainedConfig, dtype: torch.dtype) -> Probe:
    """This config's model on shapes, with small inputs that it takes.

    A model that writes text gets one row of PROBE_TOKENS, any other `example_inputs`. Raises
    Unsupported for a network that cannot be built.
    """
    config = copy.deepcopy(config)
    writes = writes_text(config)
    if writes:
        text_config(config).pad_token_id = None  # else GPT-2 looks for padding in the tokens
    elif not config.is_encoder_decoder:
        for part in configs_in(config):
            if hasattr(part, "use_cache"):
                part.use_cache = False
    model = build_on_meta(config, dtype).eval()
    return Probe(model, _writing(model) if writes else _running(model))


def _writing(model: PreTrainedModel) -> Callable[..., Any]:
    def forward(size: tuple[int, int] = (1, PROBE_TOKENS), **more: object) -> Tree:
        ids = torch.zeros(size, dtype=torch.long, device="meta")
        return cast("Any", model)(input_ids=ids, use_cache=True, **more)

    return forward


def _running(model: PreTrainedModel) -> Callable[..., Any]:
    run = OnShapes(model)
    known: dict[str, torch.Tensor] = {}
    tried: list[Tree] = []

    def find() -> None:
        try:
            known.update(example_inputs(model, lambda given: tried.append(run(given))))
        except Unsupported as error:
            raise NoChain(f"{error}: {_GRAPH}") from None

    def forward(size: tuple[int, int] | None = None, **more: Any) -> Tree:
        if not known:
            find()
            if size is None and not more:
                return tried.pop()  # what was found has just been run
        return run({name: _resized(value, size) for name, value in known.items()} | more)

    return forward


def _resized(value: torch.Tensor, size: tuple[int, int] | None) -> torch.Tensor:
    """An example's input for another batch and, if it is of tokens, another number of them."""
    if size is None:
        return value
    shape = size if value.dim() == len(size) and value.shape[1] == TOKENS else size[:1]
    return value.new_empty((*shape, *value.shape[len(shape) :]))


def _name(probed: Probe) -> str:
    return type(probed.model).__name__


def _run(probed: Probe) -> Tree:
    try:
        return probed.forward()
    except _FAULTS as error:
        reason = str(error).strip().partition("\n")[0]
        raise NoChain(f"{_name(probed)} cannot be probed on shapes ({reason}): {_GRAPH}") from None


def _choose(probed: Probe, lists: dict[str, list[nn.Module]], watch: Watch) -> list[_Found]:
    """The chains that hold most of the model, as the forward calls them."""
    found: list[_Found] = []
    for path, blocks in lists.items():
        calls = [watch.calls[block] for block in blocks]
        joints = joints_of(calls)
        if joints:
            found.append(_Found(path, blocks, joints, calls[0][0].at))
    outer = [one for one in found if not any(one.path.startswith(f"{two.path}.") for two in found)]
    if not outer:
        raise NoChain(f"no list of {_name(probed)} is called block after block: {_GRAPH}")
    largest = max(one.elements for one in outer)
    kept = [one for one in outer if one.elements * MINOR >= largest]
    return sorted(kept, key=lambda one: one.first)


def _try(probed: Probe, chains: list[_Found], watch: Watch) -> None:
    """Raise NoChain if what a block gives is not for the next one alone."""
    read = read_elsewhere([found.blocks for found in chains], watch, lambda: _run(probed))
    if read is not None:
        path = chains[read].path
        raise NoChain(
            f"{_name(probed)} uses what the blocks of {path} give elsewhere too: {_GRAPH}"
        )
    for found in chains:
        for joint in found.joints[:-1]:
            said = [leaf for _, leaf in leaves(joint.template) if type(leaf) in {int, float}]
            if said:
                raise NoChain(f"blocks of {_name(probed)} give numbers ({said[0]}): {_GRAPH}")


def _elements(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _plan(
    model_dir: Path,
    config: PreTrainedConfig,
    probed: Probe,
    found: list[_Found],
    cache: Cache | None,
) -> ChainPlan:
    text = text_config(config)
    writes = writes_text(config)
    blocks = [block for chain in found for block in chain.blocks]
    joints = tuple(joint for chain in found for joint in chain.joints)
    _check_carried(probed, joints, writes=writes)
    if writes:
        check_numbers(_name(probed), blocks, cache)
    batch, tokens = _sizes(joints, writes=writes)
    grows, fixed = _cache_elements(cache, len(blocks), text, writes=writes)
    kept = isinstance(cache, DynamicCache)
    vectors = cache_vectors(cache) if kept else (0,) * len(blocks)
    return ChainPlan(
        model_dir=model_dir,
        architecture=_name(probed),
        writes=writes,
        chains=_chains(probed, found, tokens, caches=writes),
        joints=joints,
        batch=batch,
        tokens=tokens,
        hidden_size=int(getattr(text, "hidden_size", 0)),
        vocabulary=int(getattr(text, "vocab_size", 0)),
        context_tokens=getattr(text, "max_position_embeddings", None) if writes else None,
        block_elements=tuple(map(_elements, blocks)),
        ends_elements=_elements(probed.model) - sum(map(_elements, blocks)),
        cache_elements_per_token=grows,
        cache_elements_fixed=fixed,
        cache_vectors_per_token=vectors,
        config=config,
        renamings=_renamings(probed.model),
    )


def _renamings(model: PreTrainedModel) -> tuple[WeightRenaming, ...]:
    mapping = cast("list[Any]", cast("Any", get_model_conversion_mapping)(model))
    return tuple(one for one in mapping if isinstance(one, WeightRenaming))


def _chains(
    probed: Probe, found: list[_Found], tokens: int | None, *, caches: bool
) -> tuple[Chain, ...]:
    chains: list[Chain] = []
    start = 0
    for one in found:
        span = Span(start, start + len(one.blocks))
        chains.append(Chain(one.path, span, _ends(probed, one.joints, tokens), caches))
        start = span.stop
    return tuple(chains)


def _ends(probed: Probe, joints: tuple[Joint, ...], tokens: int | None) -> tuple[End, ...]:
    """What the last block gives where the others give what they hand on, as far as it does."""
    first, last = joints[0], joints[-1]
    still = all(_shapes(joint) == _shapes(first) for joint in joints)
    ends: list[End] = []
    for index, path in enumerate(joints[-2].gives):
        with contextlib.suppress(LookupError, TypeError):
            tensor = get(last.template, path)
            if isinstance(tensor, torch.Tensor):
                same = still and tuple(tensor.shape) == _shapes(last)[index]
                like = index if same else None
                width = width_of(tensor.shape) if tokens else None
                own = None if tensor.dtype == probed.model.dtype else tensor.dtype
                ends.append(End(path, tensor.dim(), width, like, own))
    return tuple(ends)


def _shapes(joint: Joint) -> tuple[tuple[int, ...], ...]:
    return tuple(place.shape for place in joint.takes)


def _check_carried(probed: Probe, joints: tuple[Joint, ...], *, writes: bool) -> None:
    for joint in joints:
        for place in joint.takes:
            if writes and (len(place.shape) != 3 or place.shape[:2] != (1, PROBE_TOKENS)):  # noqa: PLR2004
                raise NoChain(f"{_name(probed)} hands over no (batch, tokens, width): {_GRAPH}")
            if len(place.shape) not in RANKS:
                raise NoChain(f"{_name(probed)} hands over a tensor of {place.shape}: {_GRAPH}")


def _sizes(joints: tuple[Joint, ...], *, writes: bool) -> tuple[int, int | None]:
    """How many inputs the probe was of, and of how many tokens each."""
    shape = joints[0].takes[0].shape
    if writes:
        return 1, PROBE_TOKENS
    return shape[0], TOKENS if shape[1] == TOKENS else None


def _cache_elements(
    cache: Cache | None, blocks: int, text: PreTrainedConfig, *, writes: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Elements per token and per sequence that each block's cache took in the probe."""
    if not isinstance(cache, DynamicCache):
        unknown = 2 * int(text.hidden_size) if writes else 0
        return (unknown,) * blocks, (0,) * blocks
    return cache_elements(cache, PROBE_TOKENS)
