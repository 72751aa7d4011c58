"""A captured network, or a part of one, as plain data: ops in order, each with a name and inputs.

It is what `torch.export` saw, with nothing executable in it: an op is named, and only ops of the
list in `ops.py` are ever run. So a node may load a stage from a stranger, without the model's
Python code, without pickle and without generating code. All of it is JSON, read by types and
bounds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import msgspec
import torch

from shardline.core.errors import CorruptWeights, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Arg",
    "Atom",
    "Device",
    "Dtype",
    "Format",
    "Held",
    "Number",
    "Op",
    "Program",
    "Ref",
    "Value",
    "dtype_of",
    "each",
    "to_atom",
]

OPS_MAX: Final = 200_000
VALUES_MAX: Final = 4_096
"""Live tensors in or out of one stage, and sizes."""
ARGS_MAX: Final = 64
LIST_MAX: Final = 8_192
RANK_MAX: Final = 8
NAME_MAX: Final = 512

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_MAX)]
Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Size = Annotated[int, msgspec.Meta(ge=0, le=2**40)]


class _Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is"):
    """What all parts have in common."""


class Ref(_Data, tag="value", frozen=True):
    """The value of an op, or one that is given to the program."""

    name: Name


class Held(_Data, tag="held", frozen=True):
    """A parameter, buffer or constant."""

    name: Name


class Dtype(_Data, tag="dtype", frozen=True):
    """Such as `float32`."""

    name: Name


class Device(_Data, tag="device", frozen=True):
    """The one that the stage is loaded on, whichever the model was captured on."""


class Format(_Data, tag="format", frozen=True):
    """A memory format, such as `contiguous_format`."""

    name: Name


class Number(_Data, tag="number", frozen=True):
    """A float that JSON has no word for: `inf`, `-inf`, `nan`."""

    text: Annotated[str, msgspec.Meta(pattern="^(inf|-inf|nan)$")]


if TYPE_CHECKING:
    Atom: TypeAlias = (
        bool | int | float | str | Ref | Held | Dtype | Device | Format | Number | None
    )
    Arg: TypeAlias = Atom | list[Atom]
else:
    _Text = Annotated[str, msgspec.Meta(max_length=NAME_MAX)]
    Atom = bool | Whole | float | _Text | Ref | Held | Dtype | Device | Format | Number | None
    Arg = Atom | Annotated[list[Atom], msgspec.Meta(max_length=LIST_MAX)]


class Op(_Data, frozen=True):
    """One call; its value is known by its name."""

    name: Name
    target: Name
    """As in `ops.py`: `aten.linear.default`, or `size.mul` for numbers."""
    args: Annotated[list[Arg], msgspec.Meta(max_length=ARGS_MAX)]
    kwargs: Annotated[dict[str, Arg], msgspec.Meta(max_length=ARGS_MAX)] = {}


class Value(_Data, frozen=True):
    """A tensor or number on its way into or out of a program."""

    name: Name
    dtype: Name
    """A torch dtype; `number` for a Python number."""
    shape: Annotated[list[Size | None], msgspec.Meta(max_length=RANK_MAX)] = []
    """None where the size may change from call to call."""


class Program(_Data, frozen=True):
    """Ops in an order in which they can run."""

    ops: Annotated[list[Op], msgspec.Meta(max_length=OPS_MAX)]
    inputs: Annotated[list[Value], msgspec.Meta(max_length=VALUES_MAX)]
    outputs: Annotated[list[Value], msgspec.Meta(max_length=VALUES_MAX)]
    aliases: Annotated[dict[Name, Held], msgspec.Meta(max_length=VALUES_MAX)] = {}
    """Outputs that are a parameter or buffer, as no op has made them."""

    def held(self) -> list[str]:
        """Names of the tensors that the ops read, sorted."""
        read = {atom.name for op in self.ops for atom in each(op) if isinstance(atom, Held)}
        return sorted(read | {held.name for held in self.aliases.values()})

    def check(self) -> None:
        """Raise CorruptWeights unless each value is made once, before it is read."""
        known = {value.name for value in self.inputs}
        if len(known) < len(self.inputs):
            raise CorruptWeights("a stage's program: an input is named twice")
        for op in self.ops:
            for atom in each(op):
                if isinstance(atom, Ref) and atom.name not in known:
                    raise CorruptWeights(f"a stage's program: {op.name} reads {atom.name!r} early")
            if op.name in known:
                raise CorruptWeights(f"a stage's program: {op.name!r} is made twice")
            known.add(op.name)
        for value in self.outputs:
            if value.name not in known | set(self.aliases):
                raise CorruptWeights(f"a stage's program: {value.name!r} is never made")


def each(op: Op) -> Iterator[Atom]:
    """Every single argument of an op."""
    for arg in (*op.args, *op.kwargs.values()):
        if isinstance(arg, list):
            yield from arg
        else:
            yield arg


def to_atom(value: Any) -> Atom:  # noqa: ANN401 - whatever an op is given
    """A plain value as data; raises Unsupported for what no stage can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return Number(str(value))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.dtype):
        return Dtype(str(value).removeprefix("torch."))
    if isinstance(value, torch.device):
        return Device()
    if isinstance(value, torch.memory_format):
        return Format(str(value).removeprefix("torch."))
    raise Unsupported(f"an op is given a {type(value).__name__}, which no stage can hold")


def dtype_of(name: str) -> torch.dtype:
    """The dtype of this name; raises CorruptWeights if there is none."""
    found = getattr(torch, name, None) if name.isidentifier() else None
    if not isinstance(found, torch.dtype):
        raise CorruptWeights(f"a stage's program: there is no dtype {name!r}")
    return found
