"""What each op of a graph costs, and the graph as the pieces that a partitioner places (MTPP).

The cost is a roofline: the floating-point operations of its matrix products and convolutions at one
rate, or the bytes that it reads and writes at another, whichever takes longer; views are free.
Rates are those of a node of speed 1: only their ratio matters for a cut. Sizes are the example's.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch.utils.flop_counter import FlopCounterMode

from shardline.model.graph.ops import GETITEM, is_view, run_of
from shardline.model.graph.program import Arg, Device, Dtype, Held, Number, Ref, dtype_of, each
from shardline.model.graph.sizes import hint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardline.model.graph.capturing import Graph
    from shardline.model.graph.program import Op

__all__ = ["Pieces", "Weight", "graph_pieces", "roots", "value_bytes", "weigh_ops"]

FLOPS_PER_S: Final = 4e10
BYTES_PER_S: Final = 1e10
"""One core of a server, in float32."""
PIECES: Final = 96
"""So many pieces a partitioner places in seconds."""
_PRODUCTS: Final = {
    "linear", "matmul", "mm", "bmm", "addmm", "addmv", "mv", "dot", "baddbmm", "addbmm", "einsum",
    "bilinear", "inner", "outer", "conv1d", "conv2d", "conv3d", "conv_transpose1d",
    "conv_transpose2d", "conv_transpose3d", "convolution", "scaled_dot_product_attention", "lstm",
    "gru", "rnn_tanh", "rnn_relu",
}  # fmt: skip
"""Ops with products in them; the others' time is that of their bytes."""


@dataclass(frozen=True, slots=True)
class Weight:
    """What one op costs in the example."""

    flops: int
    moved_bytes: int
    """Inputs, parameters and outputs; nothing for a view."""
    parameter_bytes: int
    output_bytes: int

    def work_s(self, flops_per_s: float = FLOPS_PER_S, bytes_per_s: float = BYTES_PER_S) -> float:
        """How long it takes at these rates, in seconds."""
        return max(self.flops / flops_per_s, self.moved_bytes / bytes_per_s)


@dataclass(frozen=True, slots=True)
class Pieces:
    """Ops in groups, listed so that each comes after those that it reads from; plain numbers."""

    ops: tuple[tuple[int, ...], ...]
    """Indices of the graph's ops. Those that need no input of the caller are in none."""
    work_s: tuple[float, ...]
    parameter_bytes: tuple[int, ...]
    """Tensors that a piece reads; what two pieces read counts in both, as two nodes may hold it."""
    output_bytes: tuple[int, ...]
    """Of what other pieces read, or the caller."""
    edges: tuple[tuple[int, int], ...]
    input_bytes: int

    def placing(self, stages: Sequence[Sequence[int]]) -> dict[int, int]:
        """The stage of each op, of the pieces of each stage."""
        return {
            op: stage
            for stage, held in enumerate(stages)
            for piece in held
            for op in self.ops[piece]
        }


def weigh_ops(graph: Graph) -> tuple[Weight, ...]:
    """The cost of each op."""
    return tuple(_weight(graph, op) for op in graph.program.ops)


def _weight(graph: Graph, op: Op) -> Weight:
    atoms = list({atom.name: atom for atom in each(op) if isinstance(atom, Ref | Held)}.values())
    held = [graph.tensors[atom.name] for atom in atoms if isinstance(atom, Held)]
    parameters = sum(tensor.numel() * tensor.itemsize for tensor in held)
    made = value_bytes(graph.seen[op.name])
    if is_view(op.target):
        return Weight(0, 0, parameters, made)
    given = sum(value_bytes(graph.seen[atom.name]) for atom in atoms if isinstance(atom, Ref))
    name = op.target.split(".")[1]
    if name == "embedding":  # reads the rows that it is asked for
        return Weight(0, 2 * made + given, parameters, made)
    flops = _flops(graph, op) if name in _PRODUCTS else 0
    return Weight(flops, parameters + given + made, parameters, made)


def value_bytes(seen: Any) -> int:  # noqa: ANN401 - a tensor, a number, or several
    """Of a value in the example."""
    if isinstance(seen, tuple | list):
        return sum(value_bytes(one) for one in cast("list[Any]", seen))
    if not isinstance(seen, torch.Tensor):
        return 8
    elements = 1
    for size in seen.shape:
        elements *= hint(size)
    return elements * seen.itemsize


def _flops(graph: Graph, op: Op) -> int:
    """By running it on shapes alone, which torch's counter watches."""

    def ready(arg: Arg) -> Any:  # noqa: ANN401 - whatever an op is given
        if isinstance(arg, list):
            return [ready(item) for item in arg]
        if isinstance(arg, Ref | Held):
            return _shape_only(
                graph.tensors[arg.name] if isinstance(arg, Held) else graph.seen[arg.name]
            )
        if isinstance(arg, Number):
            return float(arg.text)
        if isinstance(arg, Dtype):
            return dtype_of(arg.name)
        return torch.device("meta") if isinstance(arg, Device) else arg

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        args = [ready(arg) for arg in op.args]
        run_of(op.target)(*args, **{key: ready(arg) for key, arg in op.kwargs.items()})
    return int(counter.get_total_flops())


def _shape_only(seen: Any) -> Any:  # noqa: ANN401 - a tensor or a number
    if not isinstance(seen, torch.Tensor):
        return hint(seen)
    sizes = [hint(size) for size in seen.shape]
    return torch.empty(sizes, dtype=seen.dtype, device="meta")


def roots(graph: Graph) -> dict[int, int]:
    """The ops that must be placed, each with the op that it goes with (mostly itself).

    What needs only sizes and tensors of the model (positions, masks of ones) is in none: every
    stage that reads it computes it anew, which is cheaper than a link. One of several outputs goes
    with the op that made them.
    """
    fluid = {value.name for value in graph.signature.values}
    placed: dict[str, int] = {}
    found: dict[int, int] = {}
    for at, op in enumerate(graph.program.ops):
        if not any(isinstance(atom, Ref) and atom.name in fluid for atom in each(op)):
            continue
        fluid.add(op.name)
        source = op.args[0] if op.target == GETITEM else None
        found[at] = placed[source.name] if isinstance(source, Ref) else at
        placed[op.name] = found[at]
    return found


def graph_pieces(graph: Graph, most: int = PIECES) -> Pieces:
    """The graph in at most about so many pieces of even work, joined where much would cross.

    Two pieces are joined only if one is the other's only reader or only source, which never makes
    pieces wait for each other.
    """
    weights = weigh_ops(graph)
    joined = _Joined(graph, weights)
    limit_s = sum(joined.work_s.values()) / most
    while len(joined.ops) > most:
        before = len(joined.ops)
        joined.join(limit_s, most)
        if len(joined.ops) == before:
            if limit_s > sum(joined.work_s.values()):
                break
            limit_s *= 2
    return joined.listed()


class _Joined:
    """Groups of ops under one of them, while they are being joined."""

    def __init__(self, graph: Graph, weights: Sequence[Weight]) -> None:
        self.graph, self.weights = graph, weights
        self.ops: dict[int, list[int]] = {}
        self.work_s: dict[int, float] = {}
        root_of = roots(graph)
        made_by = {graph.program.ops[at].name: root for at, root in root_of.items()}
        self.sources: dict[int, set[int]] = {}
        self.readers: defaultdict[int, set[int]] = defaultdict(set)
        for at, root in root_of.items():
            self.ops.setdefault(root, []).append(at)
            self.work_s[root] = self.work_s.get(root, 0.0) + weights[at].work_s()
            names = [atom.name for atom in each(graph.program.ops[at]) if isinstance(atom, Ref)]
            read = {made_by[name] for name in names if name in made_by} - {root}
            self.sources.setdefault(root, set()).update(read)
            for source in read:
                self.readers[source].add(root)

    def join(self, limit_s: float, most: int) -> None:
        """Join neighbours up to this work, first those with the most bytes between them."""
        size = {root: self._out_bytes(root) for root in self.ops}
        edges = [(source, root) for root, read in self.sources.items() for source in read]
        edges.sort(key=lambda edge: (-size[edge[0]], edge))
        moved: dict[int, int] = {}
        for first, second in edges:
            one, other = _found(moved, first), _found(moved, second)
            if len(self.ops) <= most:
                return
            alone = self.readers[one] == {other} or self.sources[other] == {one}
            if one != other and alone and self.work_s[one] + self.work_s[other] <= limit_s:
                self._merge(one, other)
                moved[other] = one

    def _merge(self, one: int, other: int) -> None:
        self.ops[one] += self.ops.pop(other)
        self.work_s[one] += self.work_s.pop(other)
        sources, readers = self.sources.pop(other), self.readers.pop(other, set())
        for source in sources - {one}:
            self.readers[source] = self.readers[source] - {other} | {one}
        for reader in readers:
            self.sources[reader] = self.sources[reader] - {other} | {one}
        self.sources[one] = (self.sources[one] | sources) - {one}
        self.readers[one] = (self.readers[one] | readers) - {other, one}

    def _out_bytes(self, root: int) -> int:
        """Of what others read of it, or the caller."""
        ops = self.graph.program.ops
        inside = set(self.ops[root])
        names = {ops[at].name for at in inside}
        read = {value.name for value in self.graph.program.outputs} & names
        for reader in self.readers[root]:
            for at in self.ops[reader]:
                read |= {a.name for a in each(ops[at]) if isinstance(a, Ref) and a.name in names}
        return sum(value_bytes(self.graph.seen[name]) for name in read)

    def listed(self) -> Pieces:
        """The groups in an order in which they can run, that of the ops where it is free."""
        waits = {root: len(read) for root, read in self.sources.items()}
        ready = [root for root, count in waits.items() if not count]
        heapq.heapify(ready)
        order: list[int] = []
        while ready:
            root = heapq.heappop(ready)
            order.append(root)
            for reader in self.readers[root]:
                waits[reader] -= 1
                if not waits[reader]:
                    heapq.heappush(ready, reader)
        place = {root: at for at, root in enumerate(order)}
        edges = ((place[s], place[r]) for r, read in self.sources.items() for s in read)
        return Pieces(
            ops=tuple(tuple(sorted(self.ops[root])) for root in order),
            work_s=tuple(self.work_s[root] for root in order),
            parameter_bytes=tuple(self._held_bytes(root) for root in order),
            output_bytes=tuple(self._out_bytes(root) for root in order),
            edges=tuple(sorted(edges)),
            input_bytes=sum(
                value_bytes(self.graph.seen[value.name]) for value in self.graph.signature.values
            ),
        )

    def _held_bytes(self, root: int) -> int:
        ops = self.graph.program.ops
        held = {a.name for at in self.ops[root] for a in each(ops[at]) if isinstance(a, Held)}
        return sum(value_bytes(self.graph.tensors[name]) for name in held)


def _found(moved: dict[int, int], root: int) -> int:
    while root in moved:
        root = moved[root]
    return root
