"""A call's tensors as a person writes and reads them: an .npz with a name for each.

A name is the argument's; what lies deeper has dots: `seen.image`, `parts.0`. Nothing is unpickled.
"""

from __future__ import annotations

import inspect
import zipfile
import zlib
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from shardline.core.errors import BadInput
from shardline.model import Value, told

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn


__all__ = [
    "arguments_of",
    "leaves_by_name",
    "plain_tensors",
    "read_arrays",
    "tensors_for",
    "write_arrays",
]

ONLY = "output"
"""What a result is called that has no parts."""
NUMBERS = frozenset("biuf")
"""numpy's kinds of booleans, whole numbers and floats."""


def read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz; raises BadInput for another file, or one that holds Python objects."""
    try:
        with file.open("rb") as stream:
            archive: Any = np.load(stream, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise BadInput(f"{file} is a single array: save it by name with numpy.savez")
            return {name: archive[name] for name in archive.files}
    except ValueError:  # numpy would say how to unpickle it
        why = "it is no archive, is broken, or holds Python objects"
        raise BadInput(f"{file} is no .npz of plain arrays: {why}") from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        said = str(error).partition("\n")[0]
        raise BadInput(f"{file} is no .npz of plain arrays: {said}") from None


def tensors_for(module: str, wanted: Mapping[str, Value], file: Path) -> dict[str, torch.Tensor]:
    """The tensors that a module takes out of an .npz, by the names of these values.

    `wanted` has them by what a person calls them. Raises BadInput, naming what is wanted, for one
    that is missing, too many, or does not fit.
    """
    arrays = read_arrays(file)
    given = {_plain(name): name for name in arrays}
    missing = [name for name in wanted if _plain(name) not in given]
    known = {_plain(name) for name in wanted}
    extra = [name for plain, name in given.items() if plain not in known]
    if missing or extra:
        what = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(extra)} too"
        takes = ", ".join(f"{name} {told(value)}" for name, value in wanted.items())
        raise BadInput(f"{file} {what}: {module} takes {takes or 'no tensor'}")
    return {
        value.name: _tensor(arrays[given[_plain(name)]], name, value, file)
        for name, value in wanted.items()
    }


def plain_tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    """For a model of Transformers: whole numbers in 64 bits, all others in float32.

    Raises BadInput for what are no real numbers.
    """
    found: dict[str, torch.Tensor] = {}
    for name, array in arrays.items():
        if array.dtype.kind not in NUMBERS:
            raise BadInput(f"{name} is {array.dtype}: give whole numbers, floats or booleans")
        whole = np.issubdtype(array.dtype, np.integer)
        kind = np.int64 if whole else bool if array.dtype == bool else np.float32
        found[name] = _shared(array.astype(kind))
    return found


def write_arrays(file: Path, output: Any) -> None:  # noqa: ANN401 - whatever a module returns
    """Every tensor of a result by its name; raises BadInput if the file cannot be written."""
    arrays = {
        name: (leaf.float() if leaf.dtype is torch.bfloat16 else leaf).detach().cpu().numpy()
        for name, leaf in leaves_by_name(output)
        if isinstance(leaf, torch.Tensor)
    }
    try:
        with file.open("wb") as stream:
            cast("Any", np).savez(stream, **arrays)
    except OSError as error:
        raise BadInput(f"{file} cannot be written: {error.strerror}") from None


def leaves_by_name(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Every leaf of a result but those that are None."""
    if isinstance(tree, dict):
        items = cast("dict[str, Any]", tree).items()
    elif isinstance(tree, tuple | list):
        items = ((str(at), item) for at, item in enumerate(cast("list[Any]", tree)))
    else:
        if tree is not None:
            yield name or ONLY, tree
        return
    for key, item in items:
        yield from leaves_by_name(item, f"{name}.{key}" if name else key)


def arguments_of(
    module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], file: Path
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call like this one with the tensors of an .npz, which go by the parameters' names.

    Raises BadInput as `tensors_for` does; sizes are the module's own matter.
    """
    call = inspect.signature(cast("Any", module).forward).bind(*args, **kwargs)
    example: dict[str, Any] = dict(call.arguments)
    wanted = {
        name: Value(name, str(leaf.dtype).removeprefix("torch."), [None] * leaf.dim())
        for name, leaf in leaves_by_name(example)
        if isinstance(leaf, torch.Tensor)
    }
    tensors = tensors_for(type(module).__name__, wanted, file)
    call.arguments.update({key: _filled(value, tensors, key) for key, value in example.items()})
    return call.args, call.kwargs


def _filled(tree: Any, tensors: Mapping[str, torch.Tensor], name: str) -> Any:  # noqa: ANN401
    """The same tree with other tensors, those of the names in it."""
    if isinstance(tree, dict):
        items = cast("dict[str, Any]", tree).items()
        return {key: _filled(item, tensors, f"{name}.{key}") for key, item in items}
    if isinstance(tree, tuple | list):
        row = enumerate(cast("list[Any]", tree))
        filled = [_filled(item, tensors, f"{name}.{at}") for at, item in row]
        return tuple(filled) if isinstance(tree, tuple) else filled
    return tensors.get(name, tree)


def _plain(name: str) -> str:
    return name.replace(".", "_")


def _tensor(array: NDArray[Any], name: str, value: Value, file: Path) -> torch.Tensor:
    kind = torch.zeros(0).to(getattr(torch, value.dtype))
    like = (kind.float() if kind.dtype is torch.bfloat16 else kind).numpy().dtype
    sizes = zip(value.shape, array.shape, strict=False)
    if (
        array.ndim != len(value.shape)
        or any(size is not None and size != there for size, there in sizes)
        or not np.can_cast(array.dtype, like, "same_kind")
    ):
        raise BadInput(f"{file}: {name} is {array.dtype} {array.shape}, not {told(value)}")
    return _shared(np.ascontiguousarray(array, like).reshape(array.shape)).to(kind.dtype)


def _shared(array: NDArray[Any]) -> torch.Tensor:
    return cast("Any", torch).from_numpy(array)
