"""The graph route: any `nn.Module` as a graph of ops, cut into stages without its code."""

from shardline.model.graph.capturing import Graph, capture
from shardline.model.graph.cutting import cut_graph, place_evenly
from shardline.model.graph.program import Program, Value
from shardline.model.graph.saving import load_signature, load_stage, save_signature, save_stage
from shardline.model.graph.signature import Signature, Values
from shardline.model.graph.stage import Stage, run_stages
from shardline.model.graph.weighing import Pieces, Weight, graph_pieces, weigh_ops

__all__ = [
    "Graph",
    "Pieces",
    "Program",
    "Signature",
    "Stage",
    "Value",
    "Values",
    "Weight",
    "capture",
    "cut_graph",
    "graph_pieces",
    "load_signature",
    "load_stage",
    "place_evenly",
    "run_stages",
    "save_signature",
    "save_stage",
    "weigh_ops",
]
