"""The front door: all commands under one name."""

from __future__ import annotations

import logging
import sys

import click

from shardline.cli.bench import bench
from shardline.cli.chat import chat
from shardline.cli.classify import classify
from shardline.cli.cut import cut
from shardline.cli.demo import demo
from shardline.cli.embed import embed
from shardline.cli.ending import exit_code
from shardline.cli.eval import evaluate
from shardline.cli.generate import generate
from shardline.cli.inspect import inspect
from shardline.cli.invite import invite
from shardline.cli.plan import plan
from shardline.cli.profile import profile
from shardline.cli.run import run as run_module
from shardline.cli.serve import serve
from shardline.cli.simulate import simulate
from shardline.cli.status import status

__all__ = ["cli", "main", "run"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="shardline")
@click.option("-v", "--verbose", is_flag=True, help="Say on stderr what happens underneath.")
def cli(*, verbose: bool) -> None:
    """Run one neural network, too large for any machine you have, over many unequal machines."""
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")


for command in (
    serve,
    generate,
    chat,
    status,
    invite,
    demo,
    inspect,
    run_module,
    embed,
    classify,
    cut,
    plan,
    profile,
    bench,
    evaluate,
    simulate,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    return exit_code(lambda: cli.main(arguments, "shardline", standalone_mode=False))
