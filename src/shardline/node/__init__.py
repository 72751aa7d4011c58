"""A serving machine: one span of one model, for whoever is in the swarm."""

from shardline.node.links import Rates
from shardline.node.machine import Budget, memory_limit_bytes, open_device
from shardline.node.models import ChainModel
from shardline.node.moving import Pace
from shardline.node.probing import measure_rates
from shardline.node.serving import Person, Serving, Settings, serve
from shardline.node.worker import Duty, Worker

__all__ = [
    "Budget",
    "ChainModel",
    "Duty",
    "Pace",
    "Person",
    "Rates",
    "Serving",
    "Settings",
    "Worker",
    "measure_rates",
    "memory_limit_bytes",
    "open_device",
    "serve",
]
