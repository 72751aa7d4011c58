"""Walking what a block takes and gives: nested tuples, lists and dicts with values at the leaves.

A place in a tree is its `Path`: the keys and indices from the root down. Inputs of a block are the
tree `(args, kwargs)`, so `(1, "attention_mask")` is a keyword and `(0, 0)` the first positional.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch

from shardline.codec import Marker

__all__ = ["Leaf", "Path", "Tree", "get", "leaves", "map_leaves", "signature"]

Path = tuple[int | str, ...]
Tree = Any
"""Nested tuples, lists and mappings; what is at the leaves, only its reader knows."""
Leaf = Any


_PLAIN = frozenset({torch.Tensor, Marker, type(None), bool, int, float, str})
"""Types of nearly all leaves; it takes long to find out that something is no mapping."""


def leaves(tree: Tree, path: Path = ()) -> list[tuple[Path, Any]]:
    """Each leaf with its place, depth first."""
    found: list[tuple[Path, Any]] = []
    _collect(tree, path, found)
    return found


def _collect(tree: Tree, path: Path, found: list[tuple[Path, Any]]) -> None:
    if type(tree) in _PLAIN:
        found.append((path, tree))
    elif isinstance(tree, Mapping):
        for key, child in cast("Mapping[str, Any]", tree).items():
            _collect(child, (*path, key), found)
    elif isinstance(tree, tuple | list):
        for index, child in enumerate(cast("tuple[Any, ...]", tree)):
            _collect(child, (*path, index), found)
    else:
        found.append((path, tree))


def get(tree: Tree, path: Path) -> Tree:
    """The value at a place; raises LookupError or TypeError where there is no such place."""
    for key in path:
        tree = tree[key]
    return tree


def map_leaves(tree: Tree, change: Callable[[Path, Leaf], Leaf], path: Path = ()) -> Tree:
    """The same tree with each leaf changed; tuples stay tuples, mappings become plain dicts."""
    if type(tree) in _PLAIN:
        return change(path, tree)
    if isinstance(tree, Mapping):
        items = cast("Mapping[str, Any]", tree).items()
        return {key: map_leaves(child, change, (*path, key)) for key, child in items}
    if isinstance(tree, tuple):
        return tuple(
            map_leaves(child, change, (*path, index))
            for index, child in enumerate(cast("tuple[Any, ...]", tree))
        )
    if isinstance(tree, list):
        return [
            map_leaves(child, change, (*path, index))
            for index, child in enumerate(cast("list[Any]", tree))
        ]
    return change(path, tree)


def signature(tree: Tree) -> tuple[Any, ...]:
    """Equal for trees of one shape with the very same tensors and equal plain values."""
    return tuple(
        (path, id(leaf) if isinstance(leaf, torch.Tensor) else (type(leaf), _plain(leaf)))
        for path, leaf in leaves(tree)
    )


def _plain(leaf: Leaf) -> Tree:
    return leaf if leaf is None or isinstance(leaf, bool | int | float | str | Marker) else id(leaf)
