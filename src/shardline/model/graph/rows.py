"""Where the rows of a batch lie in what a graph takes and gives, if it treats them apart.

Then a call may be split into micro-batches, which nodes work on at the same time, and what comes
back is put together again. That a module treats rows apart is never taken for granted: it must be
so by its ops and by trial.

By its ops: whatever is computed from values of rows has the batch's size in exactly one dimension,
as torch's symbols say. A mean over the batch has it in none, similarities of all pairs in two. Of
several inputs, such as words and their mask, the rows may be symbols of their own. By
trial: five rows that differ give what two and three of them give. Softmax over the batch, sorting
or shifting rows keep the size, and fail that. What is in doubt is run whole.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import msgspec
import torch
from torch.utils import _pytree as pytree

from shardline.core.errors import ShardlineError
from shardline.model.graph.program import Ref, each
from shardline.model.graph.signature import leaves_of
from shardline.model.graph.stage import Stage
from shardline.model.graph.trying import close

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from shardline.model.graph.capturing import Graph
    from shardline.model.graph.signature import Values

__all__ = ["with_rows"]

ROWS: Final = 5
FIRST: Final = 2
"""Of them: a part is tried that is no half, and none is a batch of one."""
NOISE: Final = 0.1


def with_rows(graph: Graph, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Graph:
    """The graph, whose signature says where rows lie; as it was if they are not treated apart.

    The graph runs a few times on rows made of this example, which has values.
    """
    example = graph.signature.named(*args, **kwargs)
    for symbols in _batches(graph):
        rows = _dimensions(graph, symbols)
        if rows and _apart(graph, rows, example):
            signature = msgspec.structs.replace(graph.signature, rows=rows)
            return dataclasses.replace(graph, signature=signature)
    return graph


def _batches(graph: Graph) -> Iterator[frozenset[Any]]:
    """What may be the batch: the open sizes of the first input that has any.

    Each alone, then with those that other inputs have in the same dimension.
    """
    shapes = [graph.seen[value.name].shape for value in graph.signature.values]
    opened = [dict(_open_sizes(shape)) for shape in shapes]
    for at, symbol in next(filter(None, opened), dict[int, Any]()).items():
        alone = frozenset([symbol])
        yield alone
        together = alone.union(sizes[at] for sizes in opened if at in sizes)
        if together != alone:
            yield together


def _open_sizes(shape: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """The dimensions whose size is a symbol of its own, and which."""
    for at, size in enumerate(shape):
        if not isinstance(size, int) and size.node.expr.is_Symbol:
            yield at, size.node.expr


def _dimensions(graph: Graph, symbols: frozenset[Any]) -> dict[str, int]:
    """The dimension of rows in each input and output that has them; empty if an op mixes them."""
    found: dict[str, int] = {}
    for value in graph.signature.values:
        shape = graph.seen[value.name].shape
        places = _places(graph.seen[value.name], symbols)
        if places:
            (at, *more) = places
            if more or shape[at].node.expr not in symbols:
                return {}
            found[value.name] = at
    of_rows = set(found)
    for op in graph.program.ops:
        if any(isinstance(atom, Ref) and atom.name in of_rows for atom in each(op)):
            if any(
                len(_places(one, symbols)) != 1 for one in pytree.tree_leaves(graph.seen[op.name])
            ):
                return {}
            of_rows.add(op.name)
    results = {leaf.name for leaf in leaves_of(graph.signature.outputs) if isinstance(leaf, Ref)}
    for name in sorted(results):
        places = _places(graph.seen[name], symbols)
        if len(places) > 1 or (places and not isinstance(graph.seen[name], torch.Tensor)):
            return {}
        found |= dict.fromkeys([name], *places) if places else {}
    return found if results & of_rows else {}


def _places(seen: Any, symbols: frozenset[Any]) -> list[int]:  # noqa: ANN401 - tensor or number
    """The dimensions whose size has to do with the batch's; for a number, 0 stands for itself."""
    sizes: list[Any] = list(seen.shape) if isinstance(seen, torch.Tensor) else [seen]
    return [
        at
        for at, size in enumerate(sizes)
        if hasattr(size, "node") and symbols & size.node.expr.free_symbols
    ]


def _apart(graph: Graph, rows: Mapping[str, int], example: Values) -> bool:
    """Whether rows that differ give the same in one batch and in two."""
    inputs = {
        value.name: rows[value.name] for value in graph.signature.values if value.name in rows
    }
    signature = msgspec.structs.replace(graph.signature, rows=dict(rows))
    many = _varied(example, inputs)
    if not any(_differ(many[name], at) for name, at in inputs.items()):
        return False
    device = next((tensor.device for tensor in graph.tensors.values()), torch.device("cpu"))
    stage = Stage.of(graph.program, graph.tensors, device)
    runs: list[Values] = []
    try:
        for start, stop in ((0, ROWS), (0, FIRST), (FIRST, ROWS)):
            part = signature.part(many, start, stop)
            asked = {value.name: part[value.name] for value in stage.program.inputs}
            runs.append(part | stage.run(asked))
    except ShardlineError:
        return False
    whole, *parts = runs
    names = {leaf.name for leaf in leaves_of(signature.outputs) if isinstance(leaf, Ref)}
    return all(_same(whole[n], [part[n] for part in parts], rows.get(n)) for n in names)


def _varied(example: Values, inputs: Mapping[str, int]) -> Values:
    """Five rows of the example's: numbers with some noise, whole numbers in another order."""
    luck = torch.Generator().manual_seed(0)
    varied = dict(example)
    for name, at in inputs.items():
        tensor: torch.Tensor = example[name].cpu()
        rows = tensor.index_select(at, torch.arange(ROWS) % tensor.shape[at])
        if rows.is_floating_point() or rows.is_complex():
            noise = torch.randn(rows.shape, generator=luck)
            rows = rows + (NOISE * noise).to(rows.dtype)
        else:
            rows = rows.flatten()[torch.randperm(rows.numel(), generator=luck)].view(rows.shape)
        varied[name] = rows.to(example[name].device)
    return varied


def _differ(tensor: torch.Tensor, at: int) -> bool:
    """Whether no row is the same as the one before: else nothing would be seen of their order."""
    rows = tensor.unbind(at)
    return all(not torch.equal(one, other) for one, other in pairwise(rows))


def _same(whole: Any, parts: list[Any], at: int | None) -> bool:  # noqa: ANN401 - an output
    if isinstance(whole, torch.Tensor) and bool(whole.isnan().any()):
        return False  # nothing could be seen
    if at is None:
        return all(close(part, whole) for part in parts)
    return close(torch.cat(parts, at), whole)
