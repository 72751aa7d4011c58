"""Runs a program: one op after the other, each value dropped after its last reader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from shardline.core.errors import CorruptWeights, PeerFault, StepFailed
from shardline.model.graph.ops import check_pure, run_of
from shardline.model.graph.program import (
    Arg,
    Atom,
    Device,
    Dtype,
    Format,
    Held,
    Number,
    Op,
    Program,
    Ref,
    Value,
    dtype_of,
    each,
)
from shardline.model.strides import aligned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from shardline.model.graph.signature import Values

__all__ = ["Stage", "run_stages"]

FORMATS = {
    name: cast("torch.memory_format", getattr(torch, name))
    for name in ("contiguous_format", "preserve_format", "channels_last", "channels_last_3d")
}
_HELD = "\0"
"""Before the names of tensors that the stage holds, which no value's name begins with."""
_FAULTS = (RuntimeError, TypeError, ValueError, LookupError, ArithmeticError, AssertionError)
"""What ops raise for inputs they cannot take."""


@dataclass(frozen=True, slots=True)
class _Call:
    op: Op
    run: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    """Atoms as they are given, where they do not depend on the call; `Ref` where they do."""
    spent: tuple[str, ...]
    """Values that nobody reads after it."""


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """A part of a network that is ready to run; pure, and safe to run in several threads."""

    program: Program
    tensors: dict[str, torch.Tensor]
    calls: tuple[_Call, ...]
    device: torch.device

    @classmethod
    def of(
        cls, program: Program, tensors: Mapping[str, torch.Tensor], device: torch.device
    ) -> Stage:
        """Put the program's tensors on this device and look up its ops.

        Raises CorruptWeights for a program that cannot run, Unsupported for an op off the list.
        """
        program.check()
        missing = [name for name in program.held() if name not in tensors]
        if missing:
            raise CorruptWeights(f"a stage's tensor {missing[0]} is missing")
        held = {name: _put(tensors[name], device) for name in program.held()}
        last: dict[str, int] = {}
        for at, op in enumerate(program.ops):
            last |= {atom.name: at for atom in each(op) if isinstance(atom, Ref)}
            last.setdefault(op.name, at)
        kept = {value.name for value in program.outputs}
        spent: dict[int, list[str]] = {}
        for name, at in last.items():
            if name not in kept:
                spent.setdefault(at, []).append(name)
        calls = (_call(op, device, tuple(spent.get(at, ()))) for at, op in enumerate(program.ops))
        return cls(program, held, tuple(calls), device)

    @property
    def parameter_bytes(self) -> int:
        """Of all that it holds."""
        return sum(tensor.numel() * tensor.itemsize for tensor in self.tensors.values())

    def run(self, given: Mapping[str, Any]) -> Values:
        """The outputs by name, of the inputs by name.

        Raises PeerFault unless all inputs are there as captured, StepFailed if an op fails.
        """
        values = self._begun(given)
        with torch.no_grad():
            for call in self.calls:
                values[call.op.name] = _made(call, values)
                for name in call.spent:
                    del values[name]
        aliases = self.program.aliases
        return {
            value.name: values[
                _HELD + aliases[value.name].name if value.name in aliases else value.name
            ]
            for value in self.program.outputs
        }

    def peak_bytes(self, given: Mapping[str, Any]) -> int:
        """The most bytes that a run on these inputs holds at once, beside the stage's own tensors.

        It is run for that; on the meta device, where nothing has values, that costs next to
        nothing. Raises as `run` does, also for ops that cannot do without values.
        """
        values = self._begun(given)
        own = _storages(self.tensors.values())
        inputs = _storages(given.values())
        most = sum(inputs.values())
        with torch.no_grad():
            for call in self.calls:
                values[call.op.name] = _made(call, values)
                alive = inputs | _storages(values.values())
                most = max(most, sum(size for key, size in alive.items() if key not in own))
                for name in call.spent:
                    del values[name]
        return most

    def _begun(self, given: Mapping[str, Any]) -> Values:
        """What the first op finds; raises PeerFault unless all inputs are there as captured."""
        values: Values = {_HELD + name: tensor for name, tensor in self.tensors.items()}
        for value in self.program.inputs:
            values[value.name] = _taken(value, given.get(value.name))
        return values


def _made(call: _Call, values: Mapping[str, Any]) -> Any:  # noqa: ANN401 - whatever it gives
    """An op's value; raises StepFailed if it fails."""
    args = [_filled(arg, values) for arg in call.args]
    kwargs = {key: _filled(arg, values) for key, arg in call.kwargs.items()}
    try:
        return call.run(*args, **kwargs)
    except _FAULTS as error:
        said = str(error).partition("\n")[0]
        raise StepFailed(f"{call.op.name} ({call.op.target}): {said}") from error


def _storages(values: Iterable[Any]) -> dict[int, int]:
    """The bytes of each piece of memory that these values lie in; views lie in another's."""
    found: dict[int, int] = {}
    for value in values:
        if isinstance(value, torch.Tensor):
            storage: Any = value.untyped_storage()
            found[storage._cdata] = storage.nbytes()  # noqa: SLF001 - no other name for it on meta
        elif isinstance(value, tuple | list):
            found |= _storages(cast("list[Any]", value))
    return found


def run_stages(stages: Sequence[Stage], given: Mapping[str, Any]) -> Values:
    """All stages in turn, in one process; each gets what it asks for."""
    values = dict(given)
    for stage in stages:
        values |= stage.run({value.name: values[value.name] for value in stage.program.inputs})
    return values


def _call(op: Op, device: torch.device, spent: tuple[str, ...]) -> _Call:
    args = tuple(_ready(arg, device) for arg in op.args)
    kwargs = {key: _ready(arg, device) for key, arg in op.kwargs.items()}
    check_pure(op.target, args, kwargs)
    return _Call(op, run_of(op.target), args, kwargs, spent)


def _ready(arg: Arg, device: torch.device) -> Any:  # noqa: ANN401 - whatever an op is given
    if isinstance(arg, list):
        return [_ready_atom(atom, device) for atom in arg]
    return _ready_atom(arg, device)


def _ready_atom(atom: Atom, device: torch.device) -> Any:  # noqa: ANN401 - as above
    if isinstance(atom, Held):
        return Ref(_HELD + atom.name)
    if isinstance(atom, Number):
        return float(atom.text)
    if isinstance(atom, Dtype):
        return dtype_of(atom.name)
    if isinstance(atom, Format):
        if atom.name not in FORMATS:
            raise CorruptWeights(f"a stage's program: there is no memory format {atom.name!r}")
        return FORMATS[atom.name]
    return device if isinstance(atom, Device) else atom


def _filled(arg: Any, values: Mapping[str, Any]) -> Any:  # noqa: ANN401 - as above
    if isinstance(arg, Ref):
        return values[arg.name]
    if isinstance(arg, list):
        items = cast("list[Any]", arg)
        return [values[item.name] if isinstance(item, Ref) else item for item in items]
    return arg


def _taken(value: Value, given: object) -> Any:  # noqa: ANN401 - a tensor or a number
    """An input as the program knows it; raises PeerFault if it is another."""
    if isinstance(given, torch.Tensor):
        sizes = zip(value.shape, given.shape, strict=False)
        if (
            str(given.dtype) != f"torch.{value.dtype}"
            or given.dim() != len(value.shape)
            or any(size is not None and size != there for size, there in sizes)
        ):
            raise PeerFault(f"{value.name}: {given.dtype} {tuple(given.shape)} does not fit")
        return aligned(given)
    if value.dtype == "number" and isinstance(given, bool | int | float):
        return given
    raise PeerFault(f"{value.name}: no such tensor is given")


def _put(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the stage; a parameter stays one.

    torch picks matrix kernels by what asks for gradients, which a view of a file does not pass on.
    """
    there = aligned(tensor.detach().to(device))
    return nn.Parameter(there) if tensor.requires_grad else there
