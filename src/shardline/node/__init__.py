"""A serving machine: one span of one model, for whoever is in the swarm."""

from shardline.node.machine import Budget
from shardline.node.moving import Pace
from shardline.node.serving import Person, Serving, Settings, serve
from shardline.node.worker import Duty, Worker

__all__ = ["Budget", "Duty", "Pace", "Person", "Serving", "Settings", "Worker", "serve"]
