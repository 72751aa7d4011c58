"""The caller's side: sessions over chains of nodes, under Transformers' own `generate`."""

from shardline.client.graph import SwarmGraph
from shardline.client.model import Generation, SwarmModel
from shardline.client.parts import calls_of, on_swarm
from shardline.client.surroundings import ChainBroken, Mended, Terms
from shardline.client.swarm import Swarm, join, joined
from shardline.client.times import Passed

__all__ = [
    "ChainBroken",
    "Generation",
    "Mended",
    "Passed",
    "Swarm",
    "SwarmGraph",
    "SwarmModel",
    "Terms",
    "calls_of",
    "join",
    "joined",
    "on_swarm",
]
