from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from shardline.core.errors import BadInput
from shardline.model.graph import (
    Stage,
    capture,
    cut_graph,
    graph_pieces,
    place_evenly,
    run_stages,
    weigh_ops,
)
from shardline.partition import Block, GraphProblem, Node, Problem, plan_graph

if TYPE_CHECKING:
    from shardline.model.graph import Graph, Pieces, Program

CPU = torch.device("cpu")


def results(graph: Graph, programs: tuple[Program, ...]) -> dict[str, torch.Tensor]:
    words = torch.arange(15).reshape(3, 5)
    stages = [Stage.of(program, graph.tensors, CPU) for program in programs]
    given = graph.signature.bind(words, image=torch.full((3, 16), 0.5))
    return graph.rebuild(run_stages(stages, given))


def expected(towers: nn.Module) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return towers(torch.arange(15).reshape(3, 5), image=torch.full((3, 16), 0.5))


def problem_of(found: Pieces, machines: int) -> GraphProblem:
    """The pieces as the partitioner takes them, on equal machines with one link rate."""
    numbers = zip(found.work_s, found.parameter_bytes, found.output_bytes, strict=True)
    blocks = tuple(
        Block(max(work_s, 1e-12), held_bytes, sent_bytes)
        for work_s, held_bytes, sent_bytes in numbers
    )
    nodes = tuple(Node(f"n{at}", 2**30) for at in range(machines))
    size = (machines + 1, machines + 1)
    links = Problem(blocks, nodes, np.zeros(size), np.full(size, 1e12), found.input_bytes)
    return GraphProblem(links, found.edges)


@pytest.mark.parametrize("stages", [1, 2, 3, 5])
def test_any_number_of_stages_gives_the_same(graph: Graph, towers: nn.Module, stages: int) -> None:
    programs = cut_graph(graph, place_evenly(graph, stages))
    assert len(programs) == stages
    for name, tensor in expected(towers).items():
        assert torch.equal(results(graph, programs)[name], tensor)


def test_the_partitioners_plan_can_be_cut_and_run(graph: Graph, towers: nn.Module) -> None:
    found = graph_pieces(graph)
    plan = plan_graph(problem_of(found, 2), "slices", budget_s=None)
    programs = cut_graph(graph, found.placing([one.ops for one in plan.assignment]))
    assert len(programs) == 2
    for name, tensor in expected(towers).items():
        assert torch.equal(results(graph, programs)[name], tensor)


@pytest.mark.parametrize("most", [1, 3, 100])
def test_pieces_hold_each_op_once_and_never_wait_for_each_other(graph: Graph, most: int) -> None:
    found = graph_pieces(graph, most)
    held = [op for ops in found.ops for op in ops]
    assert len(held) == len(set(held))
    assert all(producer < reader for producer, reader in found.edges)
    assert sum(found.work_s) == pytest.approx(
        sum(one.work_s() for at, one in enumerate(weigh_ops(graph)) if at in set(held))
    )
    cut_graph(graph, found.placing([[piece] for piece in range(len(found.ops))]))
    if most < 100:
        assert len(found.ops) <= 3


def test_a_tied_weight_is_where_it_is_read(graph: Graph) -> None:
    first, last = cut_graph(graph, place_evenly(graph, 2))
    assert "words.weight" in first.held()
    assert "words.weight" in last.held()
    assert "words.weight" in graph.tensors
    assert "head.weight" not in graph.tensors


def test_positions_are_made_anew_and_sizes_travel_as_numbers(graph: Graph) -> None:
    for program in cut_graph(graph, place_evenly(graph, 3)):
        assert not any("arange" in value.name for value in program.inputs)


def test_a_stage_that_would_wait_for_a_later_one_is_refused(graph: Graph) -> None:
    placing = place_evenly(graph, 2)
    with pytest.raises(BadInput, match="stage 0 would wait"):
        cut_graph(graph, {op: 1 - stage for op, stage in placing.items()})
    with pytest.raises(BadInput, match="do not share out"):
        cut_graph(graph, dict.fromkeys(list(placing)[1:], 0))
    with pytest.raises(BadInput, match="cannot be cut into 99"):
        place_evenly(graph, 99)


def test_even_work_comes_first_then_few_bytes() -> None:
    """Eight equal layers; inside each the stream is four times as wide."""
    layers = [nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 32)) for _ in range(8)]
    graph = capture(nn.Sequential(*layers), (torch.ones(4, 32),))
    weights = weigh_ops(graph)
    for stages in (2, 4):
        placing = place_evenly(graph, stages)
        work = [
            sum(weights[op].work_s() for op, at in placing.items() if at == stage)
            for stage in range(stages)
        ]
        assert max(work) == pytest.approx(sum(work) / stages, rel=0.01)
        narrow = [
            value.shape for program in cut_graph(graph, placing)[1:] for value in program.inputs
        ]
        assert narrow == [[None, 32]] * (stages - 1)


def test_products_are_counted_by_torch_and_views_cost_nothing() -> None:
    graph = capture(nn.Sequential(nn.Linear(8, 16), nn.Flatten()), (torch.ones(3, 8),))
    product, view = weigh_ops(graph)
    assert product.flops == 2 * 3 * 8 * 16
    assert product.parameter_bytes == 4 * (8 * 16 + 16)
    assert product.output_bytes == 4 * 3 * 16
    assert view.work_s() == 0
