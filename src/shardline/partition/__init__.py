"""Which node runs which blocks, in what order, and how far from the best (MTPP, PAPER 2)."""

from shardline.partition.brkga import bred
from shardline.partition.comparing import compare
from shardline.partition.dag import GraphProblem, evaluate_graph, stage_order
from shardline.partition.dag_families import GRAPHS, make_graph
from shardline.partition.dag_solve import GRAPH_METHODS, GraphPlan, PlacedOps, plan_graph
from shardline.partition.families import FAMILIES, make
from shardline.partition.problem import (
    Block,
    Figures,
    Node,
    Problem,
    Share,
    evaluate,
    weight_of,
)
from shardline.partition.replicas import SharedPlan, Way, plan_shared, spans_carry
from shardline.partition.schemes import Library, Scheme, nearest_schemes, shipped, state_of
from shardline.partition.schemes_making import precompute, scheme_of
from shardline.partition.schemes_picking import lay
from shardline.partition.schemes_refining import refine
from shardline.partition.solve import METHODS, Placed, Plan, plan

__all__ = [
    "FAMILIES",
    "GRAPHS",
    "GRAPH_METHODS",
    "METHODS",
    "Block",
    "Figures",
    "GraphPlan",
    "GraphProblem",
    "Library",
    "Node",
    "Placed",
    "PlacedOps",
    "Plan",
    "Problem",
    "Scheme",
    "Share",
    "SharedPlan",
    "Way",
    "bred",
    "compare",
    "evaluate",
    "evaluate_graph",
    "lay",
    "make",
    "make_graph",
    "nearest_schemes",
    "plan",
    "plan_graph",
    "plan_shared",
    "precompute",
    "refine",
    "scheme_of",
    "shipped",
    "spans_carry",
    "stage_order",
    "state_of",
    "weight_of",
]
