"""Virtual time, network and faults around the real swarm code (issue B; BSNS, PAPER section 1)."""

from shardline.simulation.report import Report, Settings
from shardline.simulation.world import World, simulate

__all__ = ["Report", "Settings", "World", "simulate"]
