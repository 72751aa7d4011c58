"""`shardline run --cut PATH`: named parts of a module on nodes, the rest of its code here."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, cast

import torch

from shardline.cli.generate import chain_rows
from shardline.cli.graphs import capture_rows, place_well
from shardline.cli.inspect_factory import call_factory
from shardline.cli.local import local_swarm
from shardline.cli.news import tell
from shardline.cli.run_arrays import arguments_of
from shardline.cli.run_jobs import NODES, Job
from shardline.cli.run_swarm import Went, blaming
from shardline.client import SwarmGraph, calls_of, on_swarm
from shardline.core.errors import BadInput
from shardline.core.spans import Span
from shardline.model import Graph, graph_pieces, save_graph

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from shardline.swarm import NodeRecord

__all__ = ["run_parts"]


def run_parts(  # noqa: PLR0913  (as `run` is told)
    target: str,
    names: Sequence[str],
    inputs: Path | None,
    folder: Path,
    *,
    nodes: int | None,
    batch: int | None,
) -> tuple[Job, Went]:
    """Start nodes for each part, and run the module over them.

    Raises BadInput for parts that are none or too few nodes, Unsupported for one that cannot be
    captured, with its line.
    """
    made = call_factory(target)
    module: Any = made.module
    graphs = {
        name: capture_rows(call.part, call.args, call.kwargs)
        for name, call in calls_of(module, names, made.args, made.kwargs).items()
    }
    shares = _shares(graphs, nodes or max(NODES, len(graphs)))
    args, kwargs = made.args, dict(made.kwargs)
    if inputs:
        args, kwargs = arguments_of(module, args, kwargs, inputs)
    job = Job(
        type(module).__name__, "modules", folder, (), args, kwargs, lambda: module(*args, **kwargs)
    )
    with contextlib.ExitStack() as stack:
        parts: dict[str, tuple[Graph, SwarmGraph]] = {}
        nodes_of: dict[str, list[NodeRecord]] = {}
        chain: list[dict[str, Any]] = []
        for at, (name, graph) in enumerate(graphs.items()):
            plan = save_graph(graph, place_well(graph, shares[name]), folder / str(at))
            spans = [Span(stage, stage + 1) for stage in range(plan.blocks)]
            local = stack.enter_context(local_swarm(plan.folder, spans, dtype=None))
            model = cast("SwarmGraph", local.swarm.model_now(str(plan.folder), tell=tell))
            model.part_rows = batch
            parts[name], nodes_of[name] = (graph, model), local.swarm.nodes_now()
        started_s = time.perf_counter()
        with on_swarm(module, parts), torch.no_grad(), blaming(job):
            output = module(*args, **kwargs)
        wall_s = time.perf_counter() - started_s
        for name, (_, model) in parts.items():
            chain += [{"part": name} | row for row in chain_rows(model.chain, nodes_of[name])]
        moved_bytes = sum(model.moved_bytes for _, model in parts.values())
    return job, Went(output, chain, (), wall_s, moved_bytes)


def _shares(graphs: Mapping[str, Graph], nodes: int) -> dict[str, int]:
    """Nodes for each part by its work, one at least; raises BadInput if they are too few."""
    if nodes < len(graphs):
        raise BadInput(f"{len(graphs)} parts need a node each: give --nodes {len(graphs)}")
    work_s = {name: sum(graph_pieces(graph).work_s) for name, graph in graphs.items()}
    shares = dict.fromkeys(graphs, 1)
    for _ in range(nodes - len(graphs)):
        busiest = max(shares, key=lambda name: work_s[name] / shares[name])
        shares[busiest] += 1
    return shares
