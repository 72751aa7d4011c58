"""The caller's side: sessions over chains of nodes, under Transformers' own `generate`."""

from shardline.client.model import Generation, SwarmModel
from shardline.client.surroundings import ChainBroken, Mended, Terms
from shardline.client.swarm import Swarm, join, joined

__all__ = ["ChainBroken", "Generation", "Mended", "Swarm", "SwarmModel", "Terms", "join", "joined"]
