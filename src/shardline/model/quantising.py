"""Which layers of a block are held in fewer bits, and putting these in their places.

Linear layers are, and experts that Transformers keeps in one 3-D parameter and uses one by one.
Routers are not: a token that goes to another expert is another result. Whatever else is large
stays in 16 bits and is named.
"""

from __future__ import annotations

import copy
import functools
import inspect
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch import nn

from shardline.core.errors import Unsupported
from shardline.model.fusing import fuse
from shardline.model.int4 import GroupInt4
from shardline.model.int8 import MixedInt8
from shardline.model.int8_weight import WeightInt8
from shardline.model.library import quiet
from shardline.model.loading import BUILDING
from shardline.model.route import build_on_meta
from shardline.model.weights import QuantisedExperts, QuantisedLinear
from shardline.model.weights_kept import product_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from shardline.model.chain import ChainPlan
    from shardline.model.weights import Kind

__all__ = ["KINDS", "Weights", "kind_named"]

KINDS: Final[dict[str, Callable[[], Kind]]] = {
    "int8": MixedInt8,
    "int8-weight": WeightInt8,
    "int4": GroupInt4,
}
"""To add one: its file, and a line here and in tests/unit/model/test_quantising.py."""

ROUTER: Final = re.compile(r"(?:.*\.)?(?:gate|shared_expert_gate|(?:[^.]*router[^.]*)(?:\..*)?)")
NAMED_SHARE: Final = 0.01
"""What is less than this of a block is not worth a word."""


def kind_named(name: str, *, threshold: float | None = None) -> Kind:
    """The kind of this name; `threshold` is for `int8`, None its usual one. Raises Unsupported."""
    if name not in KINDS:
        raise Unsupported(f"{name!r} weights are not built: {', '.join(KINDS)} are")
    if name == "int8" and threshold is not None:
        return MixedInt8(threshold)
    return KINDS[name]()


@dataclass(frozen=True, slots=True)
class _Place:
    """A parameter that can be held in fewer bits."""

    owner: nn.Module
    name: str
    """Of its module within the owner, or of the parameter itself for experts."""
    experts: bool

    @property
    def weight(self) -> nn.Parameter:
        held = getattr(self.owner, self.name)
        return held if self.experts else held.weight


@dataclass(frozen=True, slots=True)
class Weights:
    """How a node holds a model's blocks."""

    kind: Kind
    folder: Path | None
    """Where quantised weights are kept for the next start; None keeps none."""
    block_bytes: tuple[int, ...]
    """What each block takes in memory."""
    whole: tuple[str, ...]
    """Parameters of more than NAMED_SHARE of a block that stay in 16 bits, by their names."""

    @classmethod
    def plan(cls, plan: ChainPlan, dtype: torch.dtype, kind: Kind, folder: Path | None) -> Weights:
        """What this kind makes of this model; reads no weights."""
        with BUILDING, quiet():
            model = build_on_meta(plan.config, dtype)
        sizes: list[int] = []
        whole: dict[str, None] = {}
        for block in plan.modules(model):
            places = list(_places(block, kind))
            held = {id(place.weight) for place in places}
            rest = {name: p for name, p in block.named_parameters() if id(p) not in held}
            limit = NAMED_SHARE * sum(parameter.numel() for parameter in block.parameters())
            whole |= dict.fromkeys(name for name, p in rest.items() if p.numel() > limit)
            small = sum(_memory_bytes(place.weight, kind) for place in places)
            sizes.append(small + sum(parameter.nbytes for parameter in rest.values()))
        return cls(kind, folder, tuple(sizes), tuple(whole))

    def quantise(self, block: nn.Module) -> None:
        """Replace, in place, all that can be; the rest is copied, so that no file stays mapped."""
        for place in list(_places(block, self.kind)):
            made = self._experts(place) if place.experts else self._linear(place)
            delattr(place.owner, place.name)
            setattr(place.owner, place.name, made)
        for parameter in block.parameters():
            parameter.data = parameter.data.clone()
        fuse(block)

    def _linear(self, place: _Place) -> QuantisedLinear:
        weight, bias = place.weight, getattr(place.owner, place.name).bias
        product = product_of(weight, self.kind, self.folder)
        own = None if bias is None else bias.detach()
        return QuantisedLinear(product, weight.shape[0], weight.shape[1], own)

    def _experts(self, place: _Place) -> QuantisedExperts:
        _run_plainly(place.owner)
        return QuantisedExperts(
            [product_of(expert, self.kind, self.folder) for expert in place.weight]
        )


def _memory_bytes(weight: torch.Tensor, kind: Kind) -> int:
    *experts, outputs, inputs = weight.shape
    return (experts[0] if experts else 1) * kind.memory_bytes(outputs, inputs)


def _places(block: nn.Module, kind: Kind) -> Iterator[_Place]:
    modules = cast("Iterable[tuple[str, nn.Module]]", block.named_modules())
    for path, module in modules:
        for name, child in module.named_children():
            whole = f"{path}.{name}".lstrip(".")
            linear = type(child) is nn.Linear and not ROUTER.fullmatch(whole)
            if linear and kind.takes(*cast("nn.Linear", child).weight.shape):
                yield _Place(module, name, experts=False)
        for name, parameter in module.named_parameters(recurse=False):
            experts = parameter.ndim == len(("experts", "outputs", "inputs"))
            if experts and kind.takes(*parameter.shape[1:]) and _one_by_one(type(module), name):
                yield _Place(module, name, experts=True)


@functools.cache
def _one_by_one(experts: type[nn.Module], name: str) -> bool:
    """Whether all that these modules ever do with the parameter is `linear(x, it[expert])`.

    Looked up in their source: Transformers' modules of experts can run in several ways, and in
    their own plain way most of them do this.
    """
    plain = getattr(experts.forward, "__wrapped__", None)
    if plain is None:
        return False
    source = inspect.getsource(plain)
    uses = len(re.findall(rf"\bself\.{name}\b", source))
    return uses == len(re.findall(rf"\blinear\([^()]*, self\.{name}\[\w+\]\)", source)) > 0


def _run_plainly(module: nn.Module) -> None:
    """Let these experts run in their own plain way; the others of the model as before."""
    typeless: Any = module
    typeless.config = copy.copy(typeless.config)
    typeless.config._experts_implementation = "eager"  # noqa: SLF001
