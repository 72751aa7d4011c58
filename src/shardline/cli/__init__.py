"""The command line."""

from shardline.cli.main import main

__all__ = ["main"]
