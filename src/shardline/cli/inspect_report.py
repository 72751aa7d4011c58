"""What `shardline inspect` found, the same for both routes: blocks, stages, and what lies between.

A chain's work goes with its parameters, as a decode step reads each once, and its bytes are those
of a token. A graph's are those of an example.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from shardline.core.errors import BadInput
from shardline.core.units import format_bytes

if TYPE_CHECKING:
    from shardline.model import ChainPlan, Graph, Live, StageOutline

__all__ = ["Block", "Boundary", "Report", "Stage", "Value", "chain_report", "graph_report"]


@dataclass(frozen=True, slots=True)
class Block:
    """The smallest part that a node may hold: a chain's block, or a piece of a graph."""

    parameters: int | None
    """Elements; None for a piece of a graph, which is counted in bytes."""
    parameter_bytes: int
    work: float
    """Its share of all work."""
    output_bytes: int


@dataclass(frozen=True, slots=True)
class Stage:
    """What one of N nodes would hold."""

    blocks: str
    """Such as `0:3`; empty for a graph, which is cut between ops."""
    ops: int
    """0 for a chain."""
    first: str
    last: str
    """Where in the module it begins and ends."""
    parameters: int
    parameter_bytes: int
    work: float
    in_bytes: int
    out_bytes: int


@dataclass(frozen=True, slots=True)
class Value:
    """One tensor or size on its way over a boundary."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    """None where it may change from call to call."""
    bytes: int


@dataclass(frozen=True, slots=True)
class Boundary:
    """Between a stage and the next."""

    after: int
    """The stage before it, from 1 on."""
    bytes: int
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """How one model would be cut."""

    model: str
    route: str
    """`chain` or `graph`."""
    architecture: str
    dtype: str
    parameters: int
    parameter_bytes: int
    why: str
    """Why there is no chain; empty if there is one."""
    per: str
    """What bytes and work are those of, in words."""
    blocks: tuple[Block, ...]
    stages: tuple[Stage, ...]
    boundaries: tuple[Boundary, ...]
    open_sizes: tuple[str, ...]
    """Sizes of inputs that may change from call to call."""
    bytes_by_work: tuple[tuple[float, int], ...]
    """What would cross a cut, by the share of work before it."""
    lines: tuple[str, ...]
    """For a person, under the table."""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        plain = asdict(self)
        del plain["lines"], plain["bytes_by_work"]
        return plain


def chain_report(model: str, chain: ChainPlan, nodes: int) -> Report:
    """The blocks of a chain on so many nodes, as even as whole blocks allow."""
    import torch

    dtype = chain.config.dtype if isinstance(chain.config.dtype, torch.dtype) else torch.float32
    name = str(dtype).removeprefix("torch.")
    elements, total = chain.block_elements, sum(chain.block_elements)
    whole = total + chain.ends_elements
    carried = [_carried(chain, at, name, dtype.itemsize) for at in range(chain.blocks)]
    into = [sum(value.bytes for value in values) for values in carried]
    out = [*into[1:], into[-1]]
    cuts = _even(elements, nodes)
    headline = (
        f"chain: {chain.architecture}, {chain.blocks} blocks at {chain.paths}, "
        f"{whole:,} parameters in {name} ({format_bytes(whole * dtype.itemsize)})"
    )
    blocks = tuple(
        Block(count, count * dtype.itemsize, count / total, bytes_out)
        for count, bytes_out in zip(elements, out, strict=True)
    )
    per = "a token" if chain.tokens else "an input"
    most = format_bytes(max(into)) if len(set(into)) == 1 else f"at most {format_bytes(max(into))}"
    return Report(
        model=model,
        route="chain",
        architecture=chain.architecture,
        dtype=name,
        parameters=whole,
        parameter_bytes=whole * dtype.itemsize,
        why="",
        per=per,
        blocks=blocks,
        stages=tuple(
            _span(chain, blocks, into[start], start, stop) for start, stop in pairwise(cuts)
        ),
        boundaries=tuple(
            Boundary(at, into[cut], carried[cut]) for at, cut in enumerate(cuts[1:-1], 1)
        ),
        open_sizes=("batch", "tokens") if chain.tokens else ("batch",),
        bytes_by_work=tuple(
            (done / total, size)
            for done, size in zip(accumulate((0, *elements)), [*into, into[-1]], strict=True)
        ),
        lines=(
            headline,
            f"the caller keeps {chain.ends_elements:,} of them: all but the blocks",
            f"{most} {per} between any two blocks; work counts by parameters",
            *_ways(chain),
        ),
    )


def _carried(chain: ChainPlan, block: int, dtype: str, item_bytes: int) -> tuple[Value, ...]:
    """What a block is handed; bytes are those of one token or one input."""
    per = chain.batch * (chain.tokens or 1)
    found: list[Value] = []
    for at, place in enumerate(chain.joints[block].takes):
        stays = range(1, len(place.shape))
        if chain.tokens:  # of (batch, tokens, width) or (batch, heads, tokens, tokens)
            stays = (1,) if len(place.shape) > 3 else (len(place.shape) - 1,)  # noqa: PLR2004
        shape = tuple(size if at in stays else None for at, size in enumerate(place.shape))
        size_bytes = -(-math.prod(place.shape) // per) * item_bytes
        found.append(Value(f"hidden_{at}", dtype, shape, size_bytes))
    return tuple(found)


def _ways(chain: ChainPlan) -> tuple[str, ...]:
    """How a forward goes through the blocks, where it is not once and with a cache."""
    if chain.writes:
        return ()
    if len(chain.chains) == 1:
        return ("no cache: every forward is one step of its own",)
    spans = ", ".join(str(one.span) for one in chain.chains)
    return (f"no cache: every forward is a step for each of its chains, blocks {spans}",)


def _span(
    chain: ChainPlan, blocks: tuple[Block, ...], in_bytes: int, start: int, stop: int
) -> Stage:
    held = blocks[start:stop]
    return Stage(
        blocks=f"{start}:{stop}",
        ops=0,
        first=chain.block_path(start),
        last=chain.block_path(stop - 1),
        parameters=sum(block.parameters or 0 for block in held),
        parameter_bytes=sum(block.parameter_bytes for block in held),
        work=sum(block.work for block in held),
        in_bytes=in_bytes,
        out_bytes=held[-1].output_bytes,
    )


def _even(work: tuple[int, ...], stages: int) -> list[int]:
    """Where to cut so that the stage with the most work has least; raises BadInput."""
    count = len(work)
    if stages > count:
        raise BadInput(f"{count} blocks cannot be cut into {stages} stages: give --nodes {count}")
    bounds = np.array([0.0, *accumulate(work)])
    most = np.full((stages + 1, count + 1), np.inf)
    came = np.zeros((stages + 1, count + 1), dtype=np.int64)
    most[0, 0] = 0.0
    for stage in range(1, stages + 1):
        for stop in range(stage, count + 1):
            found = np.maximum(most[stage - 1, :stop], bounds[stop] - bounds[:stop])
            best = int(found.argmin())
            most[stage, stop], came[stage, stop] = found[best], best
    cuts = [count]
    for stage in range(stages, 0, -1):
        cuts.append(int(came[stage, cuts[-1]]))
    return cuts[::-1]


def graph_report(model: str, graph: Graph, nodes: int, why: str) -> Report:
    """The ops of a graph on so many nodes; `why` there is no chain."""
    from shardline.model import graph_pieces, outline, place_evenly

    found, pieces = outline(graph, place_evenly(graph, nodes)), graph_pieces(graph)
    work, pieces_s = sum(stage.work_s for stage in found.stages), sum(pieces.work_s)
    example = ", ".join(f"{name} {_times(shape)}" for name, shape in found.example.items())
    headline = (
        f"graph: {graph.signature.name}, {len(graph.program.ops)} ops, {found.parameters:,} "
        f"parameters in {found.dtype or 'no dtype'} ({format_bytes(found.parameter_bytes)})"
    )
    return Report(
        model=model,
        route="graph",
        architecture=graph.signature.name,
        dtype=found.dtype,
        parameters=found.parameters,
        parameter_bytes=found.parameter_bytes,
        why=why,
        per=example,
        blocks=tuple(
            Block(None, held, own / (pieces_s or 1.0), made)
            for held, own, made in zip(
                pieces.parameter_bytes, pieces.work_s, pieces.output_bytes, strict=True
            )
        ),
        stages=tuple(_graph_stage(stage, work or 1.0) for stage in found.stages),
        boundaries=tuple(_boundary(at, live) for at, live in enumerate(found.boundaries, 1)),
        open_sizes=graph.sizes,
        bytes_by_work=found.bytes_by_work,
        lines=(
            headline,
            f"work and bytes are those of {example}; {_open(graph)}",
            *([f"no chain: {why}"] if why else []),
        ),
    )


def _graph_stage(stage: StageOutline, work_s: float) -> Stage:
    return Stage(
        blocks="",
        ops=stage.ops,
        first=stage.first,
        last=stage.last,
        parameters=stage.parameters,
        parameter_bytes=stage.parameter_bytes,
        work=stage.work_s / work_s,
        in_bytes=stage.given_bytes,
        out_bytes=stage.made_bytes,
    )


def _boundary(after: int, alive: tuple[Live, ...]) -> Boundary:
    values = tuple(Value(one.name, one.dtype, one.shape, one.size_bytes) for one in alive)
    return Boundary(after, sum(value.bytes for value in values), values)


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "1"


def _open(graph: Graph) -> str:
    """Which sizes may change, for a person."""
    if graph.sizes:
        return f"{', '.join(graph.sizes)} may change"
    return f"no size may change{f' ({graph.why_fixed})' if graph.why_fixed else ''}"
