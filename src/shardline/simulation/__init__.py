"""Virtual time, network and faults around the real swarm code (issue B; BSNS, PAPER section 1)."""

from shardline.simulation.report import Report, Settings
from shardline.simulation.traffic import Flowed, Traffic, flow
from shardline.simulation.tuning import Compared, Tuned, tune
from shardline.simulation.world import World, simulate

__all__ = [
    "Compared",
    "Flowed",
    "Report",
    "Settings",
    "Traffic",
    "Tuned",
    "World",
    "flow",
    "simulate",
    "tune",
]
