"""The graph route: any `nn.Module` as a graph of ops, cut into stages without its code."""

from shardline.model.graph.capturing import Graph, capture
from shardline.model.graph.crossing import AnyCrossing, StageCrossing
from shardline.model.graph.cutting import cut_graph, place_evenly
from shardline.model.graph.example_inputs import build_on_shapes, example_inputs
from shardline.model.graph.kept import (
    GRAPH_TERMS,
    GraphPlan,
    Sample,
    StageNote,
    is_graph,
    open_graph,
    save_graph,
)
from shardline.model.graph.loaded import LoadedStages, load_stages, stage_rate
from shardline.model.graph.outlining import Live, Outline, StageOutline, outline
from shardline.model.graph.program import Program, Value
from shardline.model.graph.rows import with_rows
from shardline.model.graph.saving import load_signature, load_stage, save_signature, save_stage
from shardline.model.graph.signature import Signature, Values, told
from shardline.model.graph.stage import Stage, run_stages
from shardline.model.graph.weighing import Pieces, Weight, graph_pieces, weigh_ops

__all__ = [
    "GRAPH_TERMS",
    "AnyCrossing",
    "Graph",
    "GraphPlan",
    "Live",
    "LoadedStages",
    "Outline",
    "Pieces",
    "Program",
    "Sample",
    "Signature",
    "Stage",
    "StageCrossing",
    "StageNote",
    "StageOutline",
    "Value",
    "Values",
    "Weight",
    "build_on_shapes",
    "capture",
    "cut_graph",
    "example_inputs",
    "graph_pieces",
    "is_graph",
    "load_signature",
    "load_stage",
    "load_stages",
    "open_graph",
    "outline",
    "place_evenly",
    "run_stages",
    "save_graph",
    "save_signature",
    "save_stage",
    "stage_rate",
    "told",
    "weigh_ops",
    "with_rows",
]
