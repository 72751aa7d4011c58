"""A person's own module: FILE.py:FACTORY, imported only because that person typed it."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from shardline.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from torch import nn

__all__ = ["Made", "call_factory", "names_factory"]

FACTORY = re.compile(r"(.+\.py)(?::([A-Za-z_]\w*))?")
WANTED = "(module, args) or (module, args, kwargs)"


@dataclass(frozen=True, slots=True)
class Made:
    """What a factory gave: a module, and inputs that it takes."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def names_factory(text: str) -> bool:
    """Whether a person means a file of theirs, not a model."""
    return FACTORY.fullmatch(text) is not None


def call_factory(text: str) -> Made:
    """Import FILE.py and call FACTORY; raises BadInput, with the line, for whatever goes wrong.

    The file may import what lies beside it. It is kept in `sys.modules` under its own name unless
    that is taken, as classes that it defines may look there.
    """
    match = FACTORY.fullmatch(text)
    if match is None or match[2] is None:
        raise BadInput(f"{text} names no function: write FILE.py:FACTORY, which returns {WANTED}")
    path = Path(match[1]).expanduser().absolute()
    if not path.is_file():
        raise BadInput(f"there is no file {path}")
    with _beside(path.parent), _blaming(path):
        factory = getattr(_imported(path), match[2], None)
        if not callable(factory):
            raise BadInput(f"{path} has no function {match[2]}")
        given: Any = factory()
    return _checked(given, text)


def _imported(path: Path) -> object:
    name = path.stem if path.stem not in sys.modules else f"shardline_given_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadInput(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextlib.contextmanager
def _beside(folder: Path) -> Generator[None]:
    """What lies in this folder can be imported inside."""
    place = str(folder.resolve())
    sys.path.insert(0, place)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(place)


@contextlib.contextmanager
def _blaming(path: Path) -> Generator[None]:
    """Whatever a person's own code raises, as one line that names theirs."""
    try:
        yield
    except BadInput:
        raise
    except (Exception, SystemExit) as error:
        where = _place(error, path)
        said = str(error).strip().partition("\n")[0]
        raise BadInput(f"{where}: {type(error).__name__}: {said}") from error


def _place(error: BaseException, path: Path) -> str:
    """The last line of the file that was running, or the one that is no Python."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _checked(given: object, text: str) -> Made:
    from torch import nn

    row = cast("tuple[Any, ...]", given) if isinstance(given, tuple) else (given,)
    if len(row) in {2, 3}:
        none: dict[str, Any] = {}
        module, args, kwargs = cast("tuple[Any, Any, Any]", (*row, none)[:3])
        if (
            isinstance(module, nn.Module)
            and isinstance(args, tuple | list)
            and isinstance(kwargs, dict)
        ):
            return Made(module, tuple(cast("list[Any]", args)), cast("dict[str, Any]", kwargs))
    raise BadInput(f"{text} returned {_kinds(row)}: it should return {WANTED}")


def _kinds(row: tuple[Any, ...]) -> str:
    kinds = ", ".join(type(one).__name__ for one in row)
    return kinds if len(row) == 1 else f"({kinds})"
