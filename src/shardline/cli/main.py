"""The front door. Every command ends with 0 (done), 2 (bad input), 3 (the swarm could not do it)
or 1 (our bug), and says why in one line on stderr.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import cast

import click

from shardline.cli.bench import bench
from shardline.cli.chat import chat
from shardline.cli.demo import demo
from shardline.cli.generate import generate
from shardline.cli.invite import invite
from shardline.cli.serve import serve
from shardline.cli.simulate import simulate
from shardline.cli.status import status
from shardline.core.errors import BadInput, ShardlineError

__all__ = ["cli", "main"]

DONE, OUR_BUG, BAD_INPUT, SWARM_COULD_NOT = 0, 1, 2, 3
INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="shardline")
@click.option("-v", "--verbose", is_flag=True, help="Say on stderr what happens underneath.")
def cli(*, verbose: bool) -> None:
    """Run one neural network, too large for any machine you have, over many unequal machines."""
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")


for command in (serve, generate, chat, status, invite, demo, bench, simulate):
    cli.add_command(command)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        # Without standalone mode click returns the code of --help and --version.
        code = cli.main(arguments, "shardline", standalone_mode=False)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        return DONE
    except BaseException as error:  # noqa: BLE001  (the last place that can tell bugs from bad input)
        return _explain(error)
    return code if isinstance(code, int) else DONE


def _explain(error: BaseException) -> int:
    """One line for a person, and the exit code."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message())
        return BAD_INPUT
    if isinstance(error, click.ClickException):
        return _say(error.format_message(), BAD_INPUT)
    known = _known(error)
    if known is None:
        traceback.print_exception(error)
        return _say("this is a bug of ours; please report it with the lines above", OUR_BUG)
    return _say(str(known), BAD_INPUT if isinstance(known, BadInput) else SWARM_COULD_NOT)


def _known(error: BaseException) -> ShardlineError | None:
    """The error raised on purpose, out of the groups that task groups wrap it in."""
    if isinstance(error, ShardlineError):
        return error
    if isinstance(error, BaseExceptionGroup):
        inner = cast("BaseExceptionGroup[BaseException]", error).exceptions
        return next(filter(None, map(_known, inner)), None)
    return None


def _say(text: str, code: int) -> int:
    """On one line, without what a peer's words might do to a terminal."""
    line = "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))
    click.echo(f"shardline: {line}", err=True)
    return code
