"""Faults that happen to real nodes, drawn from a seed, and what became of the text."""

from shardline.cli.chaos.faults import FAULTS, Field
from shardline.cli.chaos.glutton import glutton
from shardline.cli.chaos.storm import Storm, Strike

__all__ = ["FAULTS", "Field", "Storm", "Strike", "glutton"]
