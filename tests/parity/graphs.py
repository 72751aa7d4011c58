"""A module over stages that were written to files and are joined by bytes, against itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from shardline.codec import pack, unpack
from shardline.model.graph import (
    Graph,
    Stage,
    StageCrossing,
    capture,
    cut_graph,
    load_signature,
    load_stage,
    place_evenly,
    save_signature,
    save_stage,
)
from tests.parity.chains import furthest

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

__all__ = ["difference", "stages_of", "through"]

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def stages_of(graph: Graph, count: int, folder: Path) -> list[Stage]:
    """The graph's stages as a node has them: from files alone."""
    for at, program in enumerate(cut_graph(graph, place_evenly(graph, count))):
        save_stage(graph, program, folder / f"{count}-{at}")
    return [load_stage(folder / f"{count}-{at}") for at in range(count)]


def through(stages: list[Stage], given: dict[str, Any]) -> dict[str, Any]:
    """All stages in turn, with what each gives as bytes on the way to the next."""
    values = dict(given)
    for at, stage in enumerate(stages):
        asked = {value.name: values[value.name] for value in stage.program.inputs}
        sent: Any = unpack(pack(StageCrossing(at, stage.run(asked)).to_tree()))
        values |= StageCrossing.from_tree(sent).values
    return values


def difference(module: nn.Module, inputs: list[Inputs], folder: Path) -> float:
    """The largest difference over 2 and 3 stages to the module in one process.

    The first inputs are the example, the others are run with what was captured from it.
    """
    args, kwargs = inputs[0]
    graph = capture(module.eval(), args, kwargs)
    save_signature(graph.signature, folder)
    signature = load_signature(folder)
    largest = 0.0
    for count in (2, 3):
        stages = stages_of(graph, count, folder)
        for args, kwargs in inputs:
            with torch.no_grad():
                whole = module(*args, **kwargs)
            values = through(stages, signature.bind(*args, **kwargs))
            same = graph.rebuild(values)
            assert type(same) is type(whole)
            largest = max(largest, _largest(same, whole))
            assert _plain(signature.rebuild(values)) == _plain(whole)
    return largest


def _plain(tree: object) -> list[object]:
    """The leaves, tensors by their shapes and dtypes."""
    leaves = pytree.tree_leaves(tree)
    return [(leaf.shape, leaf.dtype) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]


def _largest(one: object, other: object) -> float:
    pairs = list(zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True))
    tensors = [(mine, theirs) for mine, theirs in pairs if isinstance(theirs, torch.Tensor)]
    assert all(mine == theirs for mine, theirs in pairs if not isinstance(theirs, torch.Tensor))
    return furthest(tensors)
