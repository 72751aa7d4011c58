"""Which node runs which blocks, in what order, and how far from the best (MTPP, PAPER 2)."""

from shardline.partition.comparing import compare
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
from shardline.partition.solve import METHODS, Placed, Plan, plan

__all__ = [
    "FAMILIES",
    "METHODS",
    "Block",
    "Figures",
    "Node",
    "Placed",
    "Plan",
    "Problem",
    "Share",
    "compare",
    "evaluate",
    "make",
    "plan",
    "weight_of",
]
