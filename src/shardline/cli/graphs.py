"""From what a person names to a graph that is cut, in a folder: for `run` and `cut`."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from shardline.core.errors import BadInput
from shardline.model import (
    build_on_shapes,
    capture,
    cut_graph,
    example_inputs,
    graph_pieces,
    load_whole,
    outline,
    place_evenly,
    resolve,
    save_graph,
    with_rows,
)
from shardline.partition import Block, GraphProblem, Node, Problem, plan_graph

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from shardline.model import Graph, GraphPlan

__all__ = [
    "capture_rows",
    "copy_companions",
    "cut_module",
    "example_of",
    "place_well",
    "read_model",
]

PLAN_S = 2.0
LINK_BYTES_PER_S = 1e9
"""What both placings are judged by, and planned with: a link among machines of one room."""
COMPANIONS = (
    "config.json", "tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json", "modules.json",
    "sentence_bert_config.json", "*_Pooling/config.json", "preprocessor_config.json",
)  # fmt: skip
ENOUGH_BYTES = 2**60
LEAST_S = 1e-12
TEXT_RANK = 2


def cut_module(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], stages: int, folder: Path
) -> GraphPlan:
    """Capture a module from these inputs, cut it in so many stages, and write them.

    Raises Unsupported, with the line that stops it and two ways out, for one that cannot be
    captured; BadInput if it has fewer ops than stages.
    """
    graph = capture_rows(module, args, kwargs)
    return save_graph(graph, place_well(graph, stages), folder)


def capture_rows(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Graph:
    """A module captured from these inputs, with what is found of its batch's rows."""
    return with_rows(capture(module, args, kwargs), args, kwargs)


def read_model(model: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A checkpoint of Transformers with its weights, and inputs that it takes."""
    folder = resolve(model)
    return load_whole(folder, cache=False), example_of(folder)


def copy_companions(model: str, out: Path) -> None:
    """Beside a model's stages, its small files: tokenizer, labels, how pictures are read."""
    folder = resolve(model)
    for pattern in COMPANIONS:
        for file in folder.glob(pattern):
            there = out / file.relative_to(folder)
            there.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, there)


def example_of(folder: Path) -> dict[str, torch.Tensor]:
    """Inputs that a checkpoint's network takes, of which no two rows are alike."""
    found: dict[str, torch.Tensor] = {}
    for name, shape in example_inputs(build_on_shapes(folder)).items():
        counted = torch.arange(shape.numel()).reshape(shape.shape)
        value = torch.sin(counted.float()) if shape.is_floating_point() else counted % 7
        found[name] = _mask(counted) if "mask" in name else value
    return found


def _mask(like: torch.Tensor) -> torch.Tensor:
    """Of this shape; in two dimensions, each row's text is a token shorter than the one before."""
    if like.dim() != TEXT_RANK:
        return torch.ones_like(like)
    rows, tokens = like.shape
    return (torch.arange(tokens) < tokens - torch.arange(rows)[:, None]).long()


def place_well(graph: Graph, stages: int) -> dict[int, int]:
    """A placing on so many equal machines: MTPP's, where it is better than the cuts of SliceGraph.

    The better one has the quicker slowest stage, what goes in and out included. MTPP's may leave
    machines unused: then it is no answer to so many stages.
    """
    even = place_evenly(graph, stages)
    if stages == 1:
        return even
    pieces = graph_pieces(graph)
    blocks = tuple(
        Block(max(work_s, LEAST_S), held_bytes, sent_bytes)
        for work_s, held_bytes, sent_bytes in zip(
            pieces.work_s, pieces.parameter_bytes, pieces.output_bytes, strict=True
        )
    )
    nodes = tuple(Node(str(at), ENOUGH_BYTES) for at in range(stages))
    links = (stages + 1, stages + 1)
    problem = Problem(
        blocks, nodes, np.zeros(links), np.full(links, LINK_BYTES_PER_S), pieces.input_bytes
    )
    try:
        plan = plan_graph(GraphProblem(problem, pieces.edges), budget_s=PLAN_S)
        planned = pieces.placing([placed.ops for placed in plan.assignment])
        cut_graph(graph, planned)
    except BadInput:  # a place that no machine can be given; the even cut can always be had
        return even
    if len(plan.assignment) < stages or _slowest_s(graph, planned) >= _slowest_s(graph, even):
        return even
    return planned


def _slowest_s(graph: Graph, placing: Mapping[int, int]) -> float:
    return max(
        stage.work_s + (stage.given_bytes + stage.made_bytes) / LINK_BYTES_PER_S
        for stage in outline(graph, placing).stages
    )
