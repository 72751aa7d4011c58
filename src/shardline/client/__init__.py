"""The caller's side: sessions over chains of nodes, under Transformers' own `generate`."""

from shardline.client.model import Generation, SwarmModel
from shardline.client.swarm import Swarm, join, joined

__all__ = ["Generation", "Swarm", "SwarmModel", "join", "joined"]
