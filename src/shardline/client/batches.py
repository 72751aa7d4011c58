"""A call's batch as several smaller ones, so that all nodes of a chain work at the same time.

Of a graph the signature says where rows lie (`model/graph/rows.py`). Of a model of Transformers
nobody has to say it: every tensor that goes in begins with the batch, rows are treated apart, and
the sizes of parts differ, so that shapes tell which outputs have rows. Outputs that have none (a
loss) or that have them twice (similarities of all pairs) cannot be put together: such a call is run
whole. Sums of products may differ in their last bits between a batch and parts of it.
"""

from __future__ import annotations

from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import torch
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Inputs", "batch_of", "join", "on_nodes", "parts_of", "rows_of", "split"]

PART_ROWS: Final = 8
"""Rows of a part, unless there are too many parts: fewer use a machine's matrix units badly."""
PARTS: Final = 8
"""Parts for each node. While the first part is on its way the last node waits, and the first one
after its last: of two nodes' time that is 6%, of many nodes' up to an eighth. More parts leave less
of it, and each costs the caller and every node some milliseconds."""
AHEAD: Final = 2
"""Parts that are on their way at once for each node, and one for the caller's own ends: a node has
the next part when it is done with one, though seats for it are given between two."""
PARTS_MAX: Final = 4_096

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""
T = TypeVar("T")
R = TypeVar("R")


def parts_of(rows: int, nodes: int, part_rows: int | None = None) -> tuple[int, ...]:
    """How many rows each part of a batch has, at most `part_rows` of them.

    If nobody says how many, one node is given the batch whole, and several nodes get `PARTS` for
    each, unless that were fewer than `PART_ROWS`. Where there are several parts, not all are equal.
    """
    if part_rows is None:
        wanted = min(rows // PART_ROWS, PARTS * nodes) if nodes > 1 else 1
    else:
        wanted = -(-rows // part_rows)
    count = max(1, min(wanted, rows, PARTS_MAX))
    least, more = divmod(rows, count)
    sizes = [least + (at < more) for at in range(count)]
    if count > 1 and not more and least > 1:  # shapes would not tell what has rows
        sizes[0], sizes[-1] = least + (part_rows is None), least - 1
        if part_rows is not None:
            sizes.append(1)
    return tuple(sizes)


def rows_of(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """The first row of each part, and the one behind its last."""
    stops = [sum(sizes[: at + 1]) for at in range(len(sizes))]
    return [(stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]


def batch_of(inputs: Inputs) -> int:
    """The rows of a call: the first size of all its tensors, or 1 if they do not agree on it."""
    leaves: list[Any] = pytree.tree_leaves(inputs)
    firsts = {
        leaf.shape[0] if leaf.dim() else 0 for leaf in leaves if isinstance(leaf, torch.Tensor)
    }
    return max(firsts.pop(), 1) if len(firsts) == 1 else 1


def split(inputs: Inputs, sizes: Sequence[int]) -> list[Inputs]:
    """The call for each part: every tensor's own rows, all else as it is."""

    def part(start: int, stop: int) -> Inputs:
        def cut(leaf: Any) -> Any:  # noqa: ANN401 - whatever the model takes
            return leaf[start:stop] if isinstance(leaf, torch.Tensor) else leaf

        return cast("Inputs", pytree.tree_map(cut, inputs))

    return [part(start, stop) for start, stop in rows_of(sizes)]


def join(outputs: Sequence[T], sizes: Sequence[int]) -> T | None:
    """The output of the whole batch, of the same kind; None if it cannot be told from its parts.

    A leaf is told if it is the same plain value in all parts, or a tensor that has a part's rows in
    its first dimension and is alike in the others.
    """
    if len(outputs) == 1:
        return outputs[0]
    rows, specs = zip(*(pytree.tree_flatten(output) for output in outputs), strict=True)
    if any(spec != specs[0] for spec in specs) or len(set(sizes)) == 1:
        return None
    joined: list[Any] = []
    for leaves in zip(*cast("tuple[list[Any], ...]", rows), strict=True):
        first = leaves[0]
        if any(type(leaf) is not type(first) for leaf in leaves):
            return None
        if isinstance(first, torch.Tensor):
            shapes = [(len(leaf), *leaf.shape[1:]) if leaf.dim() else () for leaf in leaves]
            if shapes != [(size, *first.shape[1:]) for size in sizes]:
                return None
            joined.append(torch.cat(leaves))
        elif any(leaf != first for leaf in leaves):
            return None
        else:
            joined.append(first)
    return cast("T", pytree.tree_unflatten(joined, specs[0]))


def on_nodes(work: Callable[[T], R], parts: Sequence[T], nodes: int) -> list[R]:
    """The work on each part, on several at once, so that all nodes have some; in their order.

    Each part's own work here is done on one core: several parts are at it, and nodes may be on this
    machine. Raises what the first one raises; parts that nobody has begun by then are left alone.
    """
    if len(parts) == 1:
        return [work(parts[0])]
    own = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(AHEAD * nodes + 1, "shardline-part", _compute_alone) as pool:
            futures = [pool.submit(work, part) for part in parts]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:  # whoever interrupts it does not wait for parts that nobody has begun
                for future in futures:
                    future.cancel()
            failed = [one for one in futures if not one.cancelled() and one.exception()]
    finally:
        torch.set_num_threads(own)  # for threads that are still to come
    return [future.result() for future in failed or futures]


def _compute_alone() -> None:
    torch.set_num_threads(1)
