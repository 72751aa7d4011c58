"""Real weights for a part of a model; the rest has no storage and is never read.

Transformers' own loading does the work, so that renamed, fused and converted tensors come out
as its own modules expect: we give it the model class with a constructor that drops what is not
wanted, and lazy slices of just the tensors that are.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.core_model_loading import apply_renamings

from shardline.core.errors import CorruptWeights, Unsupported
from shardline.model.files import WeightFiles
from shardline.model.library import quiet
from shardline.model.route import model_class

if TYPE_CHECKING:
    from pathlib import Path

    from shardline.model.chain import ChainPlan

__all__ = ["BUILDING", "Part", "block_of", "blocks_of", "drop_outside", "load_part"]

BUILDING: Final = threading.Lock()
"""Held while Transformers builds a model's modules, and while blocks run: it changes the default
dtype, and more, of the whole process then, and a step in another thread could become another one.
Reading the weights is outside of it."""

_LOADING: Final = threading.Lock()
"""Held by each load: Transformers keeps what it misses where another load would find it."""

Part = Callable[[PreTrainedModel], None]
"""Drops, in place, what this part of the model does not hold; called on the meta device."""

Loader = Any
"""A model class as Transformers makes it: with a `from_pretrained` that no type describes."""


def blocks_of(plan: ChainPlan, names: list[str]) -> dict[str, int | None]:
    """For these checkpoint names: which block of the model each belongs to, None for the ends."""
    renamed = {name: apply_renamings(name, list(plan.renamings)) for name in names}
    found: dict[str, int | None] = dict.fromkeys(names)
    for chain in plan.chains:
        block = block_of(chain.path, list(renamed.values()))
        for name, own in renamed.items():
            at = block(own)
            if at is not None and at < len(chain.span):
                found[name] = chain.span.start + at
    return found


def block_of(list_path: str, names: list[str]) -> Callable[[str], int | None]:
    """For these names: which block of the list a name belongs to, None for all others.

    Checkpoints differ from the module tree in what comes before the list's own name (`h.0.x` for
    `transformer.h`), and other towers may have lists of the same name, so the prefix is the one
    in the checkpoint that shares the most components with the chain's path.
    """
    *parents, last = list_path.split(".")
    prefixes: set[tuple[str, ...]] = set()
    for name in names:
        split = _split(name, last)
        if split is not None:
            prefixes.add(split[0])
    if not prefixes:
        return lambda _: None
    prefix = max(prefixes, key=lambda found: (len(set(found) & set(parents)), -len(found)))

    def block(name: str) -> int | None:
        split = _split(name, last)
        return split[1] if split is not None and split[0] == prefix else None

    return block


def _split(name: str, last: str) -> tuple[tuple[str, ...], int] | None:
    """`model.layers.3.x` at `layers` is (("model",), 3)."""
    parts = name.split(".")
    for place, (part, number) in enumerate(itertools.pairwise(parts)):
        if part == last and number.isdecimal():
            return tuple(parts[:place]), int(number)
    return None


def load_part(
    plan: ChainPlan,
    part: Part,
    wanted: Callable[[int | None], bool],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> PreTrainedModel:
    """The model with only a part alive; `wanted` says of which blocks (None: ends) to read.

    Raises CorruptWeights, naming the file, when tensors are missing or damaged, and Unsupported
    for an architecture whose own loading looks into parts that are not there.
    """
    files = WeightFiles.of(plan.model_dir)
    blocks = blocks_of(plan, list(files.places))
    slices = files.open([name for name, block in blocks.items() if wanted(block)])
    with _LOADING, quiet():
        try:
            loaded, report = _part_class(plan.config, part).from_pretrained(
                None,
                config=plan.config,
                state_dict=slices,
                dtype=dtype,
                ignore_mismatched_sizes=True,  # reported below, where the tensor can be named
                output_loading_info=True,
            )
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise CorruptWeights(f"{_places(files)}: {reason[:300]}") from None
        except (AttributeError, TypeError, LookupError) as error:
            reason = " ".join(str(error).split())[:200]
            raise Unsupported(f"{plan.architecture} cannot be loaded in parts: {reason}") from error
    model = cast("PreTrainedModel", loaded)
    missing = sorted(cast("set[str]", report["missing_keys"]))
    if missing:
        raise CorruptWeights(f"{_places(files)}: tensor {missing[0]} is missing")
    for name, found, expected in report["mismatched_keys"]:
        shapes = f"{tuple(found)}, not {tuple(expected)}"
        raise CorruptWeights(f"{_places(files)}: tensor {name} is of shape {shapes}")
    # Parameters keep asking for gradients, as Transformers leaves them: torch picks its matrix
    # kernels by that flag too, and without it logits differ in the last bits (Mamba: 1e-5).
    typeless: Any = model.eval()
    return cast("PreTrainedModel", typeless.to(device))


def _places(files: WeightFiles) -> Path:
    held = files.files()
    return held[0] if len(held) == 1 else files.directory


def _part_class(config: PreTrainedConfig, part: Part) -> Loader:
    """The architecture's class, under its own name, whose constructor drops the rest.

    The name stays because Transformers looks some behaviour up by it.
    """
    whole: Any = model_class(config)

    def init_context(_: Loader, *args: Loader, **kwargs: Loader) -> list[Loader]:
        return [BUILDING, *whole.get_init_context(*args, **kwargs)]

    def init(self: Loader, *args: Loader, **kwargs: Loader) -> None:
        whole.__init__(self, *args, **kwargs)
        part(self)

    body = {
        "__init__": init,
        "get_init_context": classmethod(init_context),
        "__module__": whole.__module__,
        "__qualname__": whole.__qualname__,
    }
    return type(whole.__name__, (whole,), body)


def drop_outside(model: PreTrainedModel, list_paths: list[str]) -> None:
    """Replace all that holds weights outside these lists by modules that hold none."""
    lists = [f"{path}." for path in list_paths]
    dropped: list[str] = []
    for name in list(model.state_dict()):
        owner, _, leaf = name.rpartition(".")
        if any(name.startswith(kept) for kept in [*lists, *dropped]):
            continue
        if not owner or any(path.startswith(f"{owner}.") for path in lists):
            holder = model.get_submodule(owner)
            delattr(holder, leaf)
            continue
        parent, _, child = owner.rpartition(".")
        setattr(model.get_submodule(parent), child, nn.Identity())
        dropped.append(f"{owner}.")
    # What is missing is made up, module by module, from parts that may be gone: not out here.
    for name, module in cast("Iterator[tuple[str, Any]]", model.named_modules()):
        if not any(f"{name}.".startswith(path) for path in lists):
            module._is_hf_initialized = True  # noqa: SLF001
