"""How a graph would be cut, in numbers for a person: stages, what lives between them, and where.

Nothing runs: work, bytes and sizes are those of the example, as `weighing` has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from torch import nn

from shardline.model.graph.cutting import crossing_bytes, cut_graph
from shardline.model.graph.program import Held, each
from shardline.model.graph.sizes import hint
from shardline.model.graph.weighing import roots, value_bytes, weigh_ops

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardline.model.graph.capturing import Graph
    from shardline.model.graph.program import Program, Value

__all__ = ["Live", "Outline", "StageOutline", "outline"]


@dataclass(frozen=True, slots=True)
class Live:
    """A value on its way over a boundary."""

    name: str
    dtype: str
    """A torch dtype; `number` for a size."""
    shape: tuple[int | None, ...]
    """None where the size may change from call to call."""
    size_bytes: int
    """In the example."""


@dataclass(frozen=True, slots=True)
class StageOutline:
    """What one stage does and holds."""

    ops: int
    first: str
    """Where in the module its parameters begin, such as `encoder.layer.3`; empty without any."""
    last: str
    parameters: int
    """Elements."""
    parameter_bytes: int
    """Buffers and constants too."""
    work_s: float
    """At the rates of `weighing`: only shares of it mean much."""
    given_bytes: int
    """What it reads of the caller and of earlier stages."""
    made_bytes: int
    """What it makes that later stages or the caller read."""


@dataclass(frozen=True, slots=True)
class Outline:
    """A graph in so many stages."""

    example: Mapping[str, tuple[int, ...]]
    """The shape of each input in the example."""
    dtype: str
    """Of its parameters; several are joined by ` and `."""
    parameters: int
    """Elements, each tied one counted once."""
    parameter_bytes: int
    """Buffers and constants too."""
    stages: tuple[StageOutline, ...]
    boundaries: tuple[tuple[Live, ...], ...]
    """What later stages read of earlier ones and of the caller: after each stage but the last."""
    bytes_by_work: tuple[tuple[float, int], ...]
    """What is alive after each op, by the share of work until there: where cuts are cheap."""


def outline(graph: Graph, placing: Mapping[int, int]) -> Outline:
    """The graph with its ops so placed; raises BadInput for a placing that is none."""
    programs = cut_graph(graph, placing)
    weights = weigh_ops(graph)
    work = {op.name: weight.work_s() for op, weight in zip(graph.program.ops, weights, strict=True)}
    shapes = {
        value.name: tuple(hint(size) for size in graph.seen[value.name].shape)
        for value in graph.signature.values
    }
    weights_read = [t for t in graph.tensors.values() if isinstance(t, nn.Parameter)]
    return Outline(
        example=shapes,
        dtype=" and ".join(sorted({str(t.dtype).removeprefix("torch.") for t in weights_read})),
        parameters=sum(tensor.numel() for tensor in weights_read),
        parameter_bytes=sum(map(value_bytes, graph.tensors.values())),
        stages=tuple(_stage(graph, program, work) for program in programs),
        boundaries=tuple(_alive(graph, programs, at) for at in range(1, len(programs))),
        bytes_by_work=_bytes_by_work(graph, work),
    )


def _stage(graph: Graph, program: Program, work: Mapping[str, float]) -> StageOutline:
    read = {a.name: None for op in program.ops for a in each(op) if isinstance(a, Held)}
    own = {name: graph.tensors[name] for name in program.held()}
    weights = [name for name in read if isinstance(own[name], nn.Parameter)]
    return StageOutline(
        ops=len(program.ops),
        first=_place(weights[0]) if weights else "",
        last=_place(weights[-1]) if weights else "",
        parameters=sum(t.numel() for t in own.values() if isinstance(t, nn.Parameter)),
        parameter_bytes=sum(map(value_bytes, own.values())),
        work_s=sum(work[op.name] for op in program.ops),
        given_bytes=sum(value_bytes(graph.seen[value.name]) for value in program.inputs),
        made_bytes=sum(value_bytes(graph.seen[value.name]) for value in program.outputs),
    )


def _place(tensor: str) -> str:
    """The repeated part that a tensor is in, or else the module that holds it."""
    path = tensor.split(".")
    numbers = [at for at, part in enumerate(path) if part.isdigit()]
    return ".".join(path[: numbers[-1] + 1] if numbers else path[:-1] or path)


def _alive(graph: Graph, programs: tuple[Program, ...], at: int) -> tuple[Live, ...]:
    """What goes over the boundary before this stage."""
    wanted: dict[str, Value] = {}
    for program in reversed(programs[at:]):
        made = {value.name for value in program.outputs}
        wanted = {name: value for name, value in wanted.items() if name not in made}
        wanted |= {value.name: value for value in program.inputs}
    return tuple(
        Live(name, value.dtype, tuple(value.shape), value_bytes(graph.seen[name]))
        for name, value in sorted(wanted.items())
    )


def _bytes_by_work(graph: Graph, work: Mapping[str, float]) -> tuple[tuple[float, int], ...]:
    root_of = roots(graph)
    order = [at for at, root in root_of.items() if at == root]
    own = dict.fromkeys(order, 0.0)
    for at, root in root_of.items():
        own[root] += work[graph.program.ops[at].name]
    total = sum(own.values()) or 1.0
    alive = crossing_bytes(graph, root_of, order)
    return tuple(
        (done / total, int(size))
        for done, size in zip([0.0, *accumulate(own.values())], alive, strict=True)
    )
