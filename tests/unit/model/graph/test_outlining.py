"""A graph's stages in numbers: they add up, and boundaries hold what the programs say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from shardline.model.graph import capture, cut_graph, outline, place_evenly, weigh_ops

if TYPE_CHECKING:
    from shardline.model.graph import Graph


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_stages_share_out_the_graph(graph: Graph, stages: int) -> None:
    placing = place_evenly(graph, stages)
    found, programs = outline(graph, placing), cut_graph(graph, placing)
    assert [stage.ops for stage in found.stages] == [len(program.ops) for program in programs]
    assert len(found.boundaries) == stages - 1
    whole = sum(weight.work_s() for weight in weigh_ops(graph))
    assert sum(stage.work_s for stage in found.stages) == pytest.approx(whole)
    assert found.example == {"words": (2, 6), "image": (2, 16)}


def test_a_tied_weight_counts_once_and_where_it_is_read(graph: Graph) -> None:
    found = outline(graph, place_evenly(graph, 2))
    words, layer = 30 * 16, 16 * 16 + 16
    assert found.parameters == words + 2 * layer
    assert sum(stage.parameters for stage in found.stages) == 2 * words + 2 * layer
    assert found.dtype == "float32"


def test_what_a_late_stage_reads_crosses_every_boundary_before_it(graph: Graph) -> None:
    placing = place_evenly(graph, 3)
    found, programs = outline(graph, placing), cut_graph(graph, placing)
    for at, alive in enumerate(found.boundaries, 1):
        made = {value.name for program in programs[at:] for value in program.outputs}
        wanted = {value.name for program in programs[at:] for value in program.inputs} - made
        assert {live.name for live in alive} == wanted
        assert all(live.size_bytes > 0 for live in alive)


def test_stages_say_where_they_begin_and_end() -> None:
    layers = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(4)))
    graph = capture(layers, (torch.ones(2, 8),))
    found = outline(graph, place_evenly(graph, 2))
    assert [(s.first, s.last) for s in found.stages] == [("0.0", "1.0"), ("2.0", "3.0")]
    shares = [share for share, _ in found.bytes_by_work]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == pytest.approx(1)
    assert {size for _, size in found.bytes_by_work[1:-1]} == {2 * 8 * 4}
