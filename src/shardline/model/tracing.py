"""Finds the chain: builds the model on the meta device and watches one probe forward."""

from __future__ import annotations

import copy
import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from shardline.core.errors import CorruptWeights, NoChain, NoSuchModel, Unsupported
from shardline.model.chain import ChainPlan, Link
from shardline.model.crossing import CACHE, carried_marker
from shardline.model.library import build_on_meta, quiet, read_config, text_config
from shardline.model.loading import BUILDING
from shardline.model.trees import Leaf, Tree, get, leaves, map_leaves
from shardline.model.trees import Path as TreePath

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = ["model_config", "trace"]

PROBE_TOKENS: Final = 4
_BAD_CONFIG: Final = (ValueError, KeyError, TypeError, AttributeError, OSError)
RANK: Final = 3
_GRAPH: Final = "the graph route would serve it, which is not built yet"


@dataclass(slots=True)
class _Seen:
    """One call of one module; the tensors are kept, so that identities stay unique."""

    inputs: tuple[tuple[Any, ...], dict[str, Any]]
    output: Tree = None


@dataclass(frozen=True, slots=True)
class _Found:
    """A chain and what the probe saw of it, a call for each block."""

    model: PreTrainedModel
    path: str
    links: tuple[Link, ...]
    calls: list[_Seen]
    cache: Cache | None


def trace(model_dir: Path) -> ChainPlan:
    """Learn from `config.json` alone how this model is cut; reads no weights.

    Raises NoSuchModel, Unsupported (code of its own, quantised) or NoChain.
    """
    config = model_config(model_dir)
    with BUILDING, quiet():
        model = _on_meta(copy.deepcopy(config))
        candidates = _candidates(model)
        if not candidates:
            raise NoChain(f"{_name(model)} has no list of repeated blocks: {_GRAPH}")
        seen, cache = _probe(model, candidates)
    path, links = _choose(model, candidates, seen)
    calls = [seen[block][0] for block in candidates[path]]
    return _plan(model_dir, config, _Found(model, path, links, calls, cache))


def model_config(model_dir: Path) -> PreTrainedConfig:
    """This directory's config; raises NoSuchModel, CorruptWeights or Unsupported, saying why."""
    file = model_dir / "config.json"
    if not file.is_file():
        raise NoSuchModel(f"{model_dir} has no config.json")
    try:
        json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise CorruptWeights(f"{file}: no JSON") from None
    try:
        with quiet():
            config = read_config(model_dir)
    except (*_BAD_CONFIG, StrictDataclassError) as error:
        if "trust_remote_code" in str(error):
            raise Unsupported(f"{model_dir} needs code of its own, which is never run") from None
        reason = " ".join(str(error).split())[:200]
        raise Unsupported(f"{file} describes no model known here: {reason}") from None
    if getattr(config, "quantization_config", None) is not None:
        raise Unsupported(f"{model_dir} is quantised already: give the unquantised checkpoint")
    if getattr(text_config(config), "kv_sharing_modes", None) is not None:
        raise Unsupported(f"{model_dir} shares one block's cache with others: it cannot be cut")
    return config


def _on_meta(config: PreTrainedConfig) -> PreTrainedModel:
    """The model without weights. bfloat16, because the meta kernel of fused experts wants it."""
    text_config(config).pad_token_id = None  # else GPT-2 looks for padding in the probe's tokens
    try:
        model = build_on_meta(config, torch.bfloat16)
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise Unsupported(f"{config.model_type} needs code of its own, never run") from None
        kind = type(config).__name__.removesuffix("Config")
        raise NoChain(f"{kind} is no causal language model: {_GRAPH}") from None
    return model.eval()


def _candidates(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Every list of modules, by its dotted name."""
    return {
        path: list(module)
        for path, module in cast("Iterator[tuple[str, nn.Module]]", model.named_modules())
        if isinstance(module, nn.ModuleList) and len(module) > 1
    }


def _name(model: PreTrainedModel) -> str:
    return type(model).__name__


def _probe(
    model: PreTrainedModel, candidates: dict[str, list[nn.Module]]
) -> tuple[dict[nn.Module, list[_Seen]], Cache | None]:
    """Run the model once on shapes alone; what each candidate block got and gave."""
    blocks = {block for members in candidates.values() for block in members}
    seen: dict[nn.Module, list[_Seen]] = {block: [] for block in blocks}

    def before(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[block].append(_Seen((args, kwargs)))

    def after(block: nn.Module, _args: Tree, output: Tree) -> None:
        seen[block][-1].output = output

    hooks = [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks]
    hooks += [block.register_forward_hook(after) for block in blocks]
    tokens = torch.zeros((1, PROBE_TOKENS), dtype=torch.long, device="meta")
    try:
        with torch.no_grad():
            model(input_ids=tokens, use_cache=True)
    except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise NoChain(f"{_name(model)} cannot be probed on shapes ({reason}): {_GRAPH}") from None
    finally:
        for hook in hooks:
            hook.remove()
    return seen, _cache_in(seen)


def _cache_in(seen: dict[nn.Module, list[_Seen]]) -> Cache | None:
    for calls in seen.values():
        for call in calls:
            for _, leaf in leaves(call.inputs):
                if isinstance(leaf, Cache):
                    return leaf
    return None


def _links(calls: Sequence[list[_Seen]]) -> tuple[Link, ...]:
    """What every block hands to the next, by tensor identity; empty if this is no chain."""
    if any(len(call) != 1 for call in calls):
        return ()
    common: set[Link] | None = None
    for (one,), (two,) in itertools.pairwise(calls):
        given = [(p, t) for p, t in leaves(one.output) if isinstance(t, torch.Tensor)]
        taken = [(p, t) for p, t in leaves(two.inputs) if isinstance(t, torch.Tensor)]
        pairs = {Link(out, into) for out, t in given for into, other in taken if t is other}
        common = pairs if common is None else common & pairs
    # One carried value per place it goes to; the first output that holds it.
    by_input: dict[Any, Link] = {}
    for link in sorted(common or (), key=lambda link: (str(link.output), str(link.inputs))):
        by_input.setdefault(link.inputs, link)
    return tuple(by_input.values())


def _choose(
    model: PreTrainedModel,
    candidates: dict[str, list[nn.Module]],
    seen: dict[nn.Module, list[_Seen]],
) -> tuple[str, tuple[Link, ...]]:
    """The chain with the most parameters."""
    found = {path: _links([seen[b] for b in members]) for path, members in candidates.items()}
    found = {path: links for path, links in found.items() if links}
    if not found:
        raise NoChain(f"no list of {_name(model)} is called block after block: {_GRAPH}")
    path = max(found, key=lambda path: sum(map(_elements, candidates[path])))
    return path, found[path]


def _elements(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _plan(model_dir: Path, config: PreTrainedConfig, found: _Found) -> ChainPlan:
    text = text_config(config)
    name = _name(found.model)
    blocks = list(cast("nn.ModuleList", found.model.get_submodule(found.path)))
    _check_numbers(found, blocks)
    carried = [get(found.calls[0].inputs, link.inputs) for link in found.links]
    if any(tensor.dim() != RANK or tensor.shape[:2] != (1, PROBE_TOKENS) for tensor in carried):
        raise NoChain(f"{name} hands over no (batch, tokens, width): {_GRAPH}")
    grows, fixed = _cache_elements(found.cache, len(blocks), int(text.hidden_size))
    vectors = _cache_vectors(found.cache, len(blocks))
    return ChainPlan(
        model_dir=model_dir,
        architecture=name,
        list_path=found.path,
        blocks=len(blocks),
        links=found.links,
        widths=tuple(int(tensor.shape[-1]) for tensor in carried),
        hidden_size=int(text.hidden_size),
        vocabulary=int(text.vocab_size),
        context_tokens=getattr(text, "max_position_embeddings", None),
        block_elements=tuple(map(_elements, blocks)),
        ends_elements=_elements(found.model) - sum(map(_elements, blocks)),
        cache_elements_per_token=grows,
        cache_elements_fixed=fixed,
        cache_vectors_per_token=vectors,
        config=config,
        template=_template(found.calls[0].output, found.links),
    )


def _check_numbers(found: _Found, blocks: list[nn.Module]) -> None:
    """A block's place in the chain must be its layer in the cache, as its own code counts."""
    name = _name(found.model)
    for index, block in enumerate(blocks):
        for module in block.modules():
            layer = getattr(module, "layer_idx", index)
            if layer not in (None, index):
                raise Unsupported(f"{name} numbers block {index} as {layer}")
    caches = len(blocks) if found.cache is None else len(found.cache.layers)
    if caches != len(blocks):
        raise Unsupported(f"{name} keeps {caches} caches for {len(blocks)} blocks")


def _cache_elements(
    cache: Cache | None, blocks: int, hidden_size: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Elements per token and per sequence that each block's cache took in the probe."""
    if not isinstance(cache, DynamicCache):
        return (2 * hidden_size,) * blocks, (0,) * blocks
    grows: list[int] = []
    fixed: list[int] = []
    for layer in cache.layers:
        kept = [getattr(layer, "keys", None), getattr(layer, "values", None)]
        grown = sum(t.numel() for t in kept if isinstance(t, torch.Tensor))
        states = [*getattr(layer, "conv_states", {}).values()]
        states += [*getattr(layer, "recurrent_states", {}).values()]
        grows.append(-(-grown // PROBE_TOKENS))
        fixed.append(sum(t.numel() for t in states if isinstance(t, torch.Tensor)))
    return tuple(grows), tuple(fixed)


def _cache_vectors(cache: Cache | None, blocks: int) -> tuple[int, ...]:
    """Heads of keys and of values, where a block keeps those of every token and nothing else."""
    if not isinstance(cache, DynamicCache):
        return (0,) * blocks
    return tuple(
        int(layer.keys.shape[1] + layer.values.shape[1])
        if type(layer) is DynamicLayer and layer.keys is not None and layer.values is not None
        else 0
        for layer in cache.layers
    )


def _template(output: Tree, links: tuple[Link, ...]) -> Tree:
    places = {link.output: index for index, link in reversed(list(enumerate(links)))}

    def leaf(path: TreePath, value: Leaf) -> Leaf:
        if path in places:
            return carried_marker(places[path])
        return CACHE if isinstance(value, Cache) else value

    return map_leaves(output, leaf)
