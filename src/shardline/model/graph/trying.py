"""May a size be 1? torch's tracing cannot tell; so the module and its graph are tried with it.

Much of torch's own code asks whether a size is 1 only to choose among ways to the same result. What
was taken for granted then forbids a batch of one for no reason. A module that means it differs
when tried, and keeps its rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch.utils import _pytree as pytree

from shardline.core.errors import ShardlineError
from shardline.model.graph.signature import holds, size_name
from shardline.model.graph.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from shardline.model.graph.program import Program
    from shardline.model.graph.signature import Expression, Signature

__all__ = ["close", "without_needless"]

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
_FAULTS: Final = (RuntimeError, TypeError, ValueError, LookupError, ArithmeticError, AssertionError)
RELATIVE: Final = 1e-3
ABSOLUTE: Final = 1e-5


def without_needless(
    module: nn.Module,
    example: Inputs,
    signature: Signature,
    program: Program,
    tensors: Mapping[str, torch.Tensor],
) -> list[Expression]:
    """The rules, but for those that forbid a first or second size of 1 where it does no harm."""
    rules = list(signature.rules)
    for dimension in (0, 1):
        at_one = _sizes(signature, example, dimension, 1)
        broken = [rule for rule in rules if not holds(rule, at_one)]
        if not broken or any(tensor.device.type == "meta" for tensor in tensors.values()):
            continue
        at_two = _sizes(signature, example, dimension, 2)
        if all(holds(rule, at_two) for rule in broken):
            small = _narrow(signature, example, dimension)
            if _same(module, small, signature, Stage.of(program, tensors, _device(tensors))):
                rules = [rule for rule in rules if rule not in broken]
    return rules


def _sizes(signature: Signature, example: Inputs, dimension: int, size: int) -> dict[str, int]:
    """The example's sizes, this one of each input changed where it is open."""
    given = zip(signature.values, _tensors(example), strict=True)
    return {
        size_name(value.name, at): size if at == dimension and value.shape[at] is None else there
        for value, tensor in given
        for at, there in enumerate(tensor.shape)
    }


def _tensors(example: Inputs) -> list[torch.Tensor]:
    leaves: list[Any] = pytree.tree_leaves(example)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _narrow(signature: Signature, example: Inputs, dimension: int) -> Inputs:
    """The first of each input along this dimension, where it is open."""
    values = iter(signature.values)

    def first(leaf: Any) -> Any:  # noqa: ANN401 - whatever the module takes
        if not isinstance(leaf, torch.Tensor):
            return leaf
        shape = next(values).shape
        is_open = dimension < len(shape) and shape[dimension] is None
        return leaf.narrow(dimension, 0, 1) if is_open else leaf

    return cast("Inputs", pytree.tree_map(first, example))


def _same(module: nn.Module, inputs: Inputs, signature: Signature, stage: Stage) -> bool:
    """Whether module and graph agree on these inputs but for rounding; not if either fails."""
    args, kwargs = inputs
    given = signature.named(*args, **kwargs)
    asked = {value.name: given[value.name] for value in stage.program.inputs}
    try:
        ours = signature.leaves(given | stage.run(asked))
        theirs = pytree.tree_leaves(module(*args, **kwargs))
    except (ShardlineError, *_FAULTS):
        return False
    return len(ours) == len(theirs) and all(map(close, ours, theirs))


def close(one: object, other: object) -> bool:
    """Whether two results are the same but for rounding."""
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return one is other or one == other
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    wide = (one.double(), other.double()) if not one.is_complex() else (one, other)
    return torch.allclose(*wide, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)


def _device(tensors: Mapping[str, torch.Tensor]) -> torch.device:
    return next((tensor.device for tensor in tensors.values()), torch.device("cpu"))
