"""How a command ends: 0 is done, 2 bad input, 3 the swarm could not do it, 1 a bug of ours."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, cast

import click

from shardline.core.errors import BadInput, ShardlineError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["exit_code"]

DONE, OUR_BUG, BAD_INPUT, SWARM_COULD_NOT = 0, 1, 2, 3
INTERRUPTED = 130


def exit_code(work: Callable[[], object]) -> int:
    """Do a command's work and return its exit code; what went wrong is one line on stderr."""
    try:
        code = work()  # without standalone mode click returns the code of --help and --version
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
    click.echo(f"shardline: {one_line(text)}", err=True)
    return code
