"""How a captured network is called, and what it returns: the caller's half, as plain data.

Tensors go in by name. Sizes that may change go in beside them, as numbers (`input_ids.1`), so that
a stage far down the chain needs no tensor only to know its length. What capturing took for granted
of sizes (`attention_mask.1 == input_ids.1`) is kept as rules, and checked before anything is sent.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias, cast

import msgspec
import torch

from shardline.core.errors import BadInput, CorruptWeights, PeerFault
from shardline.model.graph.program import RANK_MAX, Number, Ref, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "Branch",
    "Expression",
    "Node",
    "Signature",
    "Term",
    "Values",
    "holds",
    "leaves_of",
    "size_name",
    "told",
]

Values = dict[str, Any]
"""Tensors and numbers by name."""
NODES_MAX: Final = 4_096


class Branch(msgspec.Struct, tag="branch", tag_field="is", frozen=True):
    """A tuple, a list or a dictionary of inputs or outputs."""

    kind: Literal["tuple", "list", "dict"]
    items: Annotated[list[Node], msgspec.Meta(max_length=NODES_MAX)]
    keys: Annotated[list[str], msgspec.Meta(max_length=NODES_MAX)] = []


class Expression(msgspec.Struct, tag="expression", tag_field="is", frozen=True):
    """A computation on sizes; a term is a number or the name of a size."""

    op: str
    terms: Annotated[list[Term], msgspec.Meta(max_length=64)]

    def __post_init__(self) -> None:
        if self.op not in OPS:
            raise ValueError(f"no rule {self.op!r} about sizes")


if TYPE_CHECKING:
    Node: TypeAlias = bool | int | float | str | Ref | Number | Branch | None
    Term: TypeAlias = int | str | Expression
else:
    Node = bool | int | float | str | Ref | Number | Branch | None
    Term = int | str | Expression


def _product(terms: list[Any]) -> int:
    found = 1
    for term in terms:
        found *= term
    return found


OPS: Final[dict[str, tuple[str, Callable[[list[Any]], Any]]]] = {
    "Add": ("+", sum),
    "Mul": ("*", _product),
    "Mod": ("%", lambda terms: terms[0] % terms[1]),
    "PythonMod": ("%", lambda terms: terms[0] % terms[1]),
    "FloorDiv": ("//", lambda terms: terms[0] // terms[1]),
    "CleanDiv": ("//", lambda terms: terms[0] // terms[1]),
    "Max": ("max", max),
    "Min": ("min", min),
    "And": ("and", all),
    "Or": ("or", any),
    "Not": ("not", lambda terms: not terms[0]),
    "Equality": ("==", lambda terms: operator.eq(*terms)),
    "Unequality": ("!=", lambda terms: operator.ne(*terms)),
    "LessThan": ("<=", lambda terms: operator.le(*terms)),
    "StrictLessThan": ("<", lambda terms: operator.lt(*terms)),
    "GreaterThan": (">=", lambda terms: operator.ge(*terms)),
    "StrictGreaterThan": (">", lambda terms: operator.gt(*terms)),
}
"""The names are sympy's, in which torch keeps what it took for granted."""


def size_name(tensor: str, dimension: int) -> str:
    """What the size of an input is called."""
    return f"{tensor}.{dimension}"


def _worth(term: Term, sizes: Mapping[str, int]) -> int:
    if isinstance(term, Expression):
        return OPS[term.op][1]([_worth(one, sizes) for one in term.terms])
    return sizes[term] if isinstance(term, str) else term


def holds(rule: Expression, sizes: Mapping[str, int]) -> bool:
    """Whether a rule allows these sizes."""
    try:
        return bool(_worth(rule, sizes))
    except (ArithmeticError, LookupError, TypeError):
        return False


def _read(term: Term) -> set[str]:
    """The sizes that a rule speaks of."""
    if isinstance(term, Expression):
        return {name for one in term.terms for name in _read(one)}
    return {term} if isinstance(term, str) else set()


def _said(term: Term) -> str:
    if isinstance(term, Expression):
        return "(" + f" {OPS[term.op][0]} ".join(_said(one) for one in term.terms) + ")"
    return str(term)


class Signature(msgspec.Struct, frozen=True):
    """The inputs and outputs of a module."""

    name: str
    """The module's class."""
    inputs: Branch
    """The positional and the keyword arguments."""
    outputs: Node
    values: list[Value]
    """The tensors that go in."""
    rules: list[Expression] = []
    rows: dict[str, Annotated[int, msgspec.Meta(ge=0, lt=RANK_MAX)]] = {}
    """The dimension of the batch's rows in inputs and outputs; empty if a call must stay whole."""

    def check(self) -> None:
        """Raise CorruptWeights unless inputs and rules speak of the tensors that are listed."""
        named = [leaf.name for leaf in leaves_of(self.inputs) if isinstance(leaf, Ref)]
        if named != [value.name for value in self.values]:
            raise CorruptWeights("a signature whose inputs are not its tensors")
        sizes = {size_name(v.name, at) for v in self.values for at in range(len(v.shape))}
        for rule in self.rules:
            if not _read(rule) <= sizes:
                raise CorruptWeights(f"a signature with a rule about {_said(rule)}")
        given = [value for value in self.values if value.name in self.rows]
        apart = all(size_name(v.name, self.rows[v.name]) in self.sizes() for v in given)
        if self.rows and not (given and apart):
            raise CorruptWeights("a signature whose rows are not those of its inputs")

    def sizes(self) -> tuple[str, ...]:
        """Sizes that may change from call to call."""
        return tuple(
            size_name(value.name, at)
            for value in self.values
            for at, size in enumerate(value.shape)
            if size is None
        )

    def asked(self) -> dict[str, Value]:
        """Each tensor that goes in by what a person calls it: its argument, dots for what is in it.

        A positional argument goes by its parameter's name.
        """
        values = {value.name: value for value in self.values}
        args, kwargs = (cast("Branch", item) for item in self.inputs.items)
        found: dict[str, Value] = {}
        for item in args.items:
            for path, name in _paths(item):
                argument = name.removesuffix("_".join(("", *path))) if path else name
                found[".".join((argument, *path))] = values[name]
        return found | {".".join(path): values[name] for path, name in _paths(kwargs)}

    def bind(self, *args: object, **kwargs: object) -> Values:
        """Tensors and sizes by name; raises BadInput for a call that was not captured."""
        given = self.named(*args, **kwargs)
        self._check_rules(given)
        return given

    def batch(self, given: Values) -> int:
        """How many rows a call has that may be split; 1 if it must stay whole."""
        counts = {
            given[v.name].shape[self.rows[v.name]] for v in self.values if v.name in self.rows
        }
        return counts.pop() if len(counts) == 1 else 1

    def part(self, given: Values, start: int, stop: int) -> Values:
        """The call for these rows only; raises BadInput where it was not captured for so many."""
        part = {
            name: value.narrow(self.rows[name], start, stop - start) if name in self.rows else value
            for name, value in given.items()
        }
        part = self._resized(part)
        self._check_rules(part)
        return part

    def joined(self, parts: Sequence[Values]) -> Values:
        """The results of all rows, of those of some rows each; raises PeerFault if they do not fit.

        What has no rows does not depend on them, and is the same in all parts.
        """
        try:
            return {
                name: torch.cat([part[name] for part in parts], self.rows[name])
                if name in self.rows
                else value
                for name, value in parts[0].items()
            }
        except (RuntimeError, IndexError, TypeError) as error:
            raise PeerFault(f"parts of a result do not fit together: {error}") from None

    def _check_rules(self, given: Values) -> None:
        sizes = {
            size_name(value.name, at): size
            for value in self.values
            for at, size in enumerate(given[value.name].shape)
        }
        for rule in self.rules:
            if not holds(rule, sizes):
                raise BadInput(f"{self.name} was captured for sizes with {_said(rule)[1:-1]}")

    def _resized(self, given: Values) -> Values:
        """With the tensors' own sizes beside them."""
        return given | {
            size_name(value.name, at): given[value.name].shape[at]
            for value in self.values
            for at, size in enumerate(value.shape)
            if size is None
        }

    def named(self, *args: object, **kwargs: object) -> Values:
        """The same, whatever the rules about sizes say."""
        given: Values = {}
        self._match(self.inputs, (args, kwargs), "its inputs", given)
        return self._resized(given)

    def call(self, values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and keyword arguments, of tensors by name."""
        return _filled(self.inputs, values)

    def rebuild(self, values: Mapping[str, Any]) -> Any:  # noqa: ANN401 - whatever it returns
        """What the module returns, in plain tuples, lists and dictionaries."""
        return _filled(self.outputs, values)

    def leaves(self, values: Mapping[str, Any]) -> list[Any]:
        """The same, flat."""
        return [_filled(leaf, values) for leaf in leaves_of(self.outputs)]

    def _match(self, node: Node, given: object, where: str, found: Values) -> None:
        if isinstance(node, Branch):
            for key, item, child in self._children(node, given, where):
                self._match(item, child, key, found)
        elif isinstance(node, Ref):
            value = next(value for value in self.values if value.name == node.name)
            if not isinstance(given, torch.Tensor) or not _fits(value, given):
                raise BadInput(f"{self.name} takes {told(value)} as {where}, not {_seen(given)}")
            found[node.name] = given
        elif isinstance(given, torch.Tensor) or given != _filled(node, {}):
            raise BadInput(f"{self.name} was captured with {where} = {node!r}, not {given!r}")

    def _children(self, node: Branch, given: object, where: str) -> list[tuple[str, Node, object]]:
        if node.kind == "dict":
            table = cast("Mapping[str, object]", given if isinstance(given, Mapping) else {})
            if set(table) != set(node.keys):
                wanted = ", ".join(node.keys) or "nothing"
                raise BadInput(f"{self.name} takes {wanted} in {where}, not {', '.join(table)}")
            pairs = zip(node.keys, node.items, strict=True)
            return [(key, item, table[key]) for key, item in pairs]
        row = cast("tuple[object, ...]", given) if isinstance(given, tuple | list) else ()
        if len(row) != len(node.items):
            raise BadInput(f"{self.name} takes {len(node.items)} values in {where}, not {len(row)}")
        pairs = enumerate(zip(node.items, row, strict=True))
        return [(f"{where}, place {at}", item, child) for at, (item, child) in pairs]


def leaves_of(node: Node) -> list[Node]:
    """The leaves of a tree of inputs or outputs, in order."""
    if isinstance(node, Branch):
        return [leaf for item in node.items for leaf in leaves_of(item)]
    return [node]


def _paths(node: Node) -> Iterator[tuple[tuple[str, ...], str]]:
    """Where each tensor is in a tree of inputs."""
    if isinstance(node, Ref):
        yield (), node.name
    elif isinstance(node, Branch):
        keys = node.keys if node.kind == "dict" else map(str, range(len(node.items)))
        for key, item in zip(keys, node.items, strict=True):
            yield from (((key, *path), name) for path, name in _paths(item))


def _filled(node: Node, values: Mapping[str, Any]) -> Any:  # noqa: ANN401 - whatever it returns
    if isinstance(node, Branch):
        items = [_filled(item, values) for item in node.items]
        if node.kind == "dict":
            return dict(zip(node.keys, items, strict=True))
        return tuple(items) if node.kind == "tuple" else items
    if isinstance(node, Ref):
        return values[node.name]
    return float(node.text) if isinstance(node, Number) else node


def _fits(value: Value, tensor: torch.Tensor) -> bool:
    sizes = zip(value.shape, tensor.shape, strict=False)
    same = len(value.shape) == tensor.dim() and str(tensor.dtype) == f"torch.{value.dtype}"
    return same and all(size is None or size == given for size, given in sizes)


def told(value: Value) -> str:
    """For a person: `float32 (any, 8)`."""
    shape = ", ".join("any" if size is None else str(size) for size in value.shape)
    return f"{value.dtype} ({shape})"


def _seen(given: object) -> str:
    if isinstance(given, torch.Tensor):
        return f"{str(given.dtype).removeprefix('torch.')} {tuple(given.shape)}"
    return f"a {type(given).__name__}"
