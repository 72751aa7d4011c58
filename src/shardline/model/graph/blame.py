"""Which line of a person's code keeps a module from being captured, and what can be done."""

from __future__ import annotations

import inspect
import linecache
import re
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import torch

from shardline.core.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

__all__ = ["not_capturable", "op_line", "op_not_usable"]

_ON_VALUES: Final = (
    "Change that line so that it does not depend on the values in a tensor (such as by torch.where)"
)
_BY_OTHER: Final = "Change that line to other operations of torch"
_RETURNED: Final = (
    "Change what it returns to tensors in tuples, lists and dictionaries (for a model of "
    "Transformers, give use_cache=False)"
)
_OR: Final = ", or name the parts that can be captured (`shardline run --cut encoder.layers.3`)"
_OWN: Final = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
"""Folders whose lines are nobody's fault."""
_TRACED: Final = re.compile(r'File "([^"]+)", line (\d+), in (\w+)')
_SAID_MAX: Final = 160


def not_capturable(module: nn.Module, error: BaseException) -> Unsupported:
    """The error for a module whose forward cannot be traced."""
    frames = [
        (frame.filename, frame.lineno or 0, frame.name)
        for cause in _causes(error)
        for frame in traceback.extract_tb(cause.__traceback__)
    ]
    said = str(error).strip().partition("\n")[0].rstrip(". ")[:_SAID_MAX]
    way = _RETURNED if "in output, which is not a known type" in said else _ON_VALUES
    return _explained(module, frames, f"{type(error).__name__}: {said}", way)


def op_not_usable(module: nn.Module, stack: str, error: Unsupported) -> Unsupported:
    """The error for an op that no stage may use; `stack` is torch's text of where it was called."""
    return _explained(module, op_line(stack), str(error), _BY_OTHER)


def op_line(stack: str) -> list[tuple[str, int, str]]:
    """File, line and function of each call in torch's text of a stack."""
    return [(file, int(line), name) for file, line, name in _TRACED.findall(stack)]


def _explained(
    module: nn.Module, frames: list[tuple[str, int, str]], why: str, way: str
) -> Unsupported:
    name = type(module).__name__
    theirs = [frame for frame in frames if _is_theirs(frame[0])]
    place = _place(*theirs[-1]) if theirs else _definition(module)
    return Unsupported(
        f"{name} cannot be captured as a graph: {place} stops it ({why}). {way}{_OR}"
    )


def _is_theirs(file: str) -> bool:
    return not file.startswith(_OWN) and Path(file).is_file()


def _place(file: str, line: int, function: str) -> str:
    code = linecache.getline(file, line).strip()
    return f"{file}:{line}, in {function}: `{code}`"


def _definition(module: nn.Module) -> str:
    """Where its forward begins, if nothing more exact is known."""
    forward = inspect.unwrap(cast("Any", type(module).forward))
    try:
        return _place(inspect.getfile(forward), forward.__code__.co_firstlineno, "forward")
    except (TypeError, AttributeError):
        return "its forward"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, the first cause first."""
    cause = error.__cause__ or error.__context__
    if cause is not None:
        yield from _causes(cause)
    yield error
