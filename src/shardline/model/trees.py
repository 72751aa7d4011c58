"""Walking what a block takes and gives: nested tuples, lists and dicts with values at the leaves.

A place in a tree is its `Path`: the keys and indices from the root down. Inputs of a block are the
tree `(args, kwargs)`, so `(1, "attention_mask")` is a keyword and `(0, 0)` the first positional.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch

from shardline.codec import Marker

__all__ = ["Leaf", "Path", "Tree", "get", "leaves", "map_leaves", "signature"]

Path = tuple[int | str, ...]
Tree = Any
"""Nested tuples, lists and mappings; what is at the leaves, only its reader knows."""
Leaf = Any


def _children(tree: Tree) -> Iterator[tuple[int | str, Any]] | None:
    """The branches of a node, or None for a leaf."""
    if isinstance(tree, Mapping):
        return iter(cast("Mapping[str, Any]", tree).items())
    if isinstance(tree, tuple | list):
        return iter(enumerate(cast("tuple[Any, ...]", tree)))
    return None


def leaves(tree: Tree, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Each leaf with its place, depth first."""
    children = _children(tree)
    if children is None:
        yield path, tree
        return
    for key, child in children:
        yield from leaves(child, (*path, key))


def get(tree: Tree, path: Path) -> Tree:
    """The value at a place; raises LookupError or TypeError where there is no such place."""
    for key in path:
        tree = tree[key]
    return tree


def map_leaves(tree: Tree, change: Callable[[Path, Leaf], Leaf], path: Path = ()) -> Tree:
    """The same tree with each leaf changed; tuples stay tuples, mappings become plain dicts."""
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
