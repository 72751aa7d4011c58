"""From what `torch.export` gives to our own plain data (`program`, `signature`).

What checks nothing but sizes is left out, as are dropout in evaluation and whatever no output
needs. Sizes of the inputs become inputs themselves.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

import torch

from shardline.core.errors import Unsupported
from shardline.model.graph.blame import op_not_usable
from shardline.model.graph.ops import GETITEM, NUMBERS, check_pure, is_overload, run_of
from shardline.model.graph.program import (
    Arg,
    Atom,
    Held,
    Op,
    Ref,
    each,
    to_atom,
)
from shardline.model.graph.signature import Branch, leaves_of, size_name

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from shardline.model.graph.signature import Node

__all__ = ["Read", "read"]

_DROPPED: Final = {
    "_assert_scalar", "_assert_async", "_assert_tensor_metadata", "_functional_assert_async",
    "_functional_assert_scalar", "sym_constrain_range", "sym_constrain_range_for_size",
}  # fmt: skip
_DROPOUT: Final = {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"}
_SAME: Final = {"lift_fresh_copy", "lift_fresh"}
_FILLED: Final = {
    "aten.empty.memory_format": "aten.zeros.default",
    "aten.empty_like.default": "aten.zeros_like.default",
    "aten.new_empty.default": "aten.new_zeros.default",
}
"""Whoever asks for memory as it is fills it next; a stage never shows what lay there."""
_NOT_GIVEN: Final = {"layout": torch.strided, "pin_memory": False}
"""Arguments with only one value that a stage can do, and are left out."""


@dataclass(slots=True)
class Read:
    """A module as it was read."""

    ops: list[Op] = field(default_factory=list[Op])
    inputs: Branch = field(default_factory=lambda: Branch("tuple", []))
    outputs: Node = None
    tensors: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])
    seen: dict[str, Any] = field(default_factory=dict[str, Any])
    """A fake tensor or a number for each value: its dtype and sizes in the example."""
    given: list[str] = field(default_factory=list[str])
    """Names of the tensors that go in."""
    aliases: dict[str, Held] = field(default_factory=dict[str, Held])
    """Results that are a parameter or buffer, by the name under which they are given back."""


def read(module: nn.Module, exported: ExportedProgram) -> Read:
    """The module's ops, tensors and calling; raises Unsupported, naming the line, for odd ops."""
    reader = _Reader(module, exported)
    for node in exported.graph.nodes:
        reader.take(node)
    reader.shake()
    return reader.read


class _Reader:
    """One pass over a graph of torch."""

    def __init__(self, module: nn.Module, exported: ExportedProgram) -> None:
        self.read = Read()
        self._module, self._exported = module, exported
        self._known: dict[str, Atom] = {}
        """What stands for each node: its own value, or what it is the same as."""
        self._shared: dict[tuple[Any, ...], str] = {}
        specs = exported.graph_signature.input_specs
        self._specs = {cast("Any", spec.arg).name: spec for spec in specs}

    def take(self, node: torch.fx.Node) -> None:
        if node.op == "placeholder":
            self._placeholder(node)
        elif node.op == "call_function":
            try:
                self._call(node)
            except Unsupported as error:
                stack = str(node.meta.get("stack_trace", ""))
                raise op_not_usable(self._module, stack, error) from None
        elif node.op == "get_attr":
            found: Any = getattr(self._exported.graph_module, str(node.target), None)
            if isinstance(found, torch.Tensor):
                self._known[node.name] = self._hold(str(node.target), found)
        else:
            self._output(node)

    def _placeholder(self, node: torch.fx.Node) -> None:
        spec = self._specs[node.name]
        kind = spec.kind.name
        if kind == "USER_INPUT":
            self._known[node.name] = Ref(node.name)
            if isinstance(node.meta.get("val"), torch.Tensor):
                self.read.seen[node.name] = node.meta["val"]
                self.read.given.append(node.name)
            return
        if kind not in {"PARAMETER", "BUFFER", "CONSTANT_TENSOR"}:
            raise Unsupported(f"{type(self._module).__name__} holds {spec.target}, no tensor")
        name = str(spec.target)
        exported: Any = self._exported
        tensor = (
            exported.constants[name] if name in exported.constants else exported.state_dict[name]
        )
        self._known[node.name] = self._hold(name, tensor)

    def _hold(self, name: str, tensor: torch.Tensor) -> Held:
        """A tensor under its first name, whichever it goes by here."""
        same = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        key = same if tensor.numel() and tensor.device.type != "meta" else (id(tensor),)
        first = self._shared.setdefault(key, name)
        self.read.tensors.setdefault(first, tensor)
        return Held(first)

    def _call(self, node: torch.fx.Node) -> None:
        target = _target(node)
        space, _, name = target.partition(".")
        name = name.partition(".")[0]
        if space == "aten":
            if name in _DROPPED:
                return
            if name in _SAME or (name in _DROPOUT and node.args[2] is False):
                self._known[node.name] = self._atom(node.args[0])
                return
            if name == "sym_size" and self._is_given(node.args[0]):
                tensor, dimension = cast("tuple[torch.fx.Node, int]", node.args)
                size = size_name(tensor.name, dimension)
                self.read.seen[size] = node.meta["val"]
                self._known[node.name] = Ref(size)
                return
        given = dict(node.kwargs)
        if target in _FILLED:
            target = _FILLED[target]
            given.pop("memory_format", None)
        run_of(target)
        check_pure(target, node.args, given)
        kwargs = {
            key: self._arg(value)
            for key, value in given.items()
            if key not in _NOT_GIVEN or _refused(key, value)
        }
        self.read.ops.append(Op(node.name, target, [self._arg(arg) for arg in node.args], kwargs))
        self.read.seen[node.name] = node.meta.get("val")
        self._known[node.name] = Ref(node.name)

    def _is_given(self, node: object) -> bool:
        return isinstance(node, torch.fx.Node) and node.name in self.read.given

    def _arg(self, value: Any) -> Arg:  # noqa: ANN401 - whatever an op is given
        if isinstance(value, list | tuple):
            return [self._atom(item) for item in cast("list[Any]", value)]
        return self._atom(value)

    def _atom(self, value: Any) -> Atom:  # noqa: ANN401 - whatever an op is given
        if isinstance(value, torch.fx.Node):
            if value.name not in self._known:
                raise Unsupported(f"{value.name} ({value.target}) has no value of its own")
            return self._known[value.name]
        return to_atom(value)

    def _output(self, node: torch.fx.Node) -> None:
        """The trees of inputs and outputs, and what is kept of a result."""
        exported = self._exported
        call = exported.call_spec
        given = [
            Ref(name) if isinstance(name, str) and name in self.read.given else to_atom(constant)
            for name, constant in (
                (cast("Any", spec.arg).name, getattr(spec.arg, "value", None))
                for spec in exported.graph_signature.input_specs
                if spec.kind.name == "USER_INPUT"
            )
        ]
        self.read.inputs = cast("Branch", _tree(call.in_spec, given))
        specs = exported.graph_signature.output_specs
        changed = [spec.target for spec in specs if spec.kind.name == "BUFFER_MUTATION"]
        if changed:
            raise op_not_usable(
                self._module, "", Unsupported(f"each call changes its buffer {changed[0]}")
            )
        results = cast("tuple[Any, ...]", node.args[0])
        kept = [
            self._result(result)
            for spec, result in zip(specs, results, strict=True)
            if spec.kind.name == "USER_OUTPUT"
        ]
        self.read.outputs = _tree(call.out_spec, kept)

    def _result(self, result: Any) -> Atom:  # noqa: ANN401 - whatever is returned
        atom = self._atom(result)
        if not isinstance(atom, Held):
            return atom
        name = f"={atom.name}"
        self.read.aliases[name] = atom
        self.read.seen[name] = self.read.tensors[atom.name]
        return Ref(name)

    def shake(self) -> None:
        """Leave out the ops that no output needs."""
        wanted = {leaf.name for leaf in leaves_of(self.read.outputs) if isinstance(leaf, Ref)}
        kept: list[Op] = []
        held = {atom.name for atom in self.read.aliases.values()}
        for op in reversed(self.read.ops):
            if op.name in wanted:
                kept.append(op)
                wanted |= {atom.name for atom in each(op) if isinstance(atom, Ref)}
                held |= {atom.name for atom in each(op) if isinstance(atom, Held)}
        self.read.ops = kept[::-1]
        self.read.tensors = {n: t for n, t in self.read.tensors.items() if n in held}


def _target(node: torch.fx.Node) -> str:
    """An op's name in our list; raises Unsupported for what is no op of torch's own."""
    target: Any = node.target
    if target is operator.getitem:
        return GETITEM
    if is_overload(target):
        return str(target)
    name = str(getattr(target, "__name__", target)).removeprefix("_")
    if name in NUMBERS and getattr(target, "__module__", "") in {"_operator", "math", "torch"}:
        return f"size.{name}"
    raise Unsupported(f"op {name} is none that a stage may use")


def _refused(key: str, value: object) -> bool:
    """Whether an argument must be spoken of though it can have one value only."""
    if value is None or value == _NOT_GIVEN[key]:
        return False
    raise Unsupported(f"an op is given {key}={value}, which no stage does")


def _tree(spec: Any, leaves: list[Any]) -> Any:  # noqa: ANN401 - torch's tree of any shape
    """torch's description of a tree as ours, with these at its leaves."""
    rest = iter(leaves)

    def grow(part: Any) -> Any:  # noqa: ANN401
        if part.type is None:
            return next(rest)
        items = [grow(child) for child in part.children()]
        keys = part.context[1] if part.type.__name__ == "defaultdict" else part.context
        if (
            isinstance(keys, list)
            and len(cast("list[Any]", keys)) == len(items)
            and (issubclass(part.type, Mapping) or items)
        ):
            if not all(isinstance(key, str) for key in cast("list[Any]", keys)):
                raise Unsupported(f"a dictionary with keys {keys}: they must be text")
            return Branch("dict", items, list(cast("list[str]", keys)))
        return Branch("list" if part.type is list else "tuple", items)

    return grow(spec)
