"""The graph route: any `nn.Module` as a graph of ops, cut into stages without its code."""

from shardline.model.graph.capturing import Graph, capture
from shardline.model.graph.cutting import cut_graph, place_evenly
from shardline.model.graph.example_inputs import build_on_shapes, example_inputs
from shardline.model.graph.outlining import Live, Outline, StageOutline, outline
from shardline.model.graph.program import Program, Value
from shardline.model.graph.saving import load_signature, load_stage, save_signature, save_stage
from shardline.model.graph.signature import Signature, Values
from shardline.model.graph.stage import Stage, run_stages
from shardline.model.graph.weighing import Pieces, Weight, graph_pieces, weigh_ops

__all__ = [
    "Graph",
    "Live",
    "Outline",
    "Pieces",
    "Program",
    "Signature",
    "Stage",
    "StageOutline",
    "Value",
    "Values",
    "Weight",
    "build_on_shapes",
    "capture",
    "cut_graph",
    "example_inputs",
    "graph_pieces",
    "load_signature",
    "load_stage",
    "outline",
    "place_evenly",
    "run_stages",
    "save_signature",
    "save_stage",
    "weigh_ops",
]
