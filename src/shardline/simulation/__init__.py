"""Virtual time, network and faults around the real swarm code (issue B; BSNS, PAPER section 1)."""

from shardline.simulation.report import Report, Settings
from shardline.simulation.sites import Asked, Sites, ask, gather, next_move
from shardline.simulation.traffic import Flowed, Traffic, flow
from shardline.simulation.tuning import Compared, Tuned, tune
from shardline.simulation.world import World, simulate

__all__ = [
    "Asked",
    "Compared",
    "Flowed",
    "Report",
    "Settings",
    "Sites",
    "Traffic",
    "Tuned",
    "World",
    "ask",
    "flow",
    "gather",
    "next_move",
    "simulate",
    "tune",
]
