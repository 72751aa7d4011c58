"""Sizes of values as torch's tracing saw them, and what it took for granted of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from shardline.model.graph.program import Value
from shardline.model.graph.signature import OPS, Expression, size_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.export import ExportedProgram

    from shardline.model.graph.signature import Term

__all__ = ["NoRule", "hint", "rules_of", "value_of"]


class NoRule(Exception):
    """What was taken for granted about sizes has no words in `signature`."""


def hint(size: Any) -> int:  # noqa: ANN401 - an int, or torch's symbol for one
    """A size in the example; 1 where it depends on values."""
    if isinstance(size, int):
        return size
    found = getattr(size.node, "hint", None)
    return 1 if found is None else int(found)


def value_of(name: str, seen: Any) -> Value:  # noqa: ANN401
    """A value as a program's end names it; sizes that torch kept open are open."""
    if not isinstance(seen, torch.Tensor):
        return Value(name, "number")
    shape = [_fixed(size) for size in seen.shape]
    return Value(name, str(seen.dtype).removeprefix("torch."), shape)


def _fixed(size: Any) -> int | None:  # noqa: ANN401 - an int, or torch's symbol for one
    """The size, unless it is open: a symbol may have become a number since."""
    if isinstance(size, int):
        return size
    return int(size.node.expr) if size.node.expr.is_Integer else None


def rules_of(
    exported: ExportedProgram, seen: Mapping[str, Any], given: list[str]
) -> list[Expression]:
    """What was taken for granted of sizes; raises NoRule where `signature` has no words for it."""
    names: dict[Any, str] = {}
    ranges: Any = cast("Any", exported).range_constraints
    rules: list[Expression] = []
    derived: list[tuple[str, Any]] = []
    for tensor in given:
        for at, size in enumerate(seen[tensor].shape):
            if _fixed(size) is not None:
                continue
            name, symbol = size_name(tensor, at), size.node.expr
            if not symbol.is_Symbol:
                derived.append((name, symbol))
            elif symbol in names:
                rules.append(Expression("Equality", [name, names[symbol]]))
            else:
                names[symbol] = name
                rules += _range(name, ranges.get(symbol))
    rules += [Expression("Equality", [name, _term(of, names)]) for name, of in derived]
    shapes: Any = next(
        (value.fake_mode.shape_env for value in seen.values() if hasattr(value, "fake_mode")), None
    )
    guards: list[Any] = [] if shapes is None else shapes.guards
    for guard in guards:
        rule = cast("Any", shapes).replace(guard.expr)
        if rule != True:  # noqa: E712 - sympy's own truth: a size that is fixed by now
            rules.append(cast("Expression", _term(rule, names)))
    return rules


def _range(name: str, allowed: Any) -> list[Expression]:  # noqa: ANN401 - torch's ValueRanges
    if allowed is None:
        return []
    rules: list[Expression] = []
    if allowed.lower.is_Integer and int(allowed.lower) > 0:
        rules.append(Expression("GreaterThan", [name, int(allowed.lower)]))
    if allowed.upper.is_Integer and int(allowed.upper) < 2**48:
        rules.append(Expression("LessThan", [name, int(allowed.upper)]))
    return rules


def _term(expr: Any, names: Mapping[Any, str]) -> Term:  # noqa: ANN401 - sympy has no types
    if expr.is_Symbol:
        if expr not in names:
            raise NoRule(str(expr))
        return names[expr]
    if expr.is_Integer:
        return int(expr)
    kind = type(expr).__name__
    if kind not in OPS:
        raise NoRule(f"{kind} in {expr}")
    return Expression(kind, [_term(term, names) for term in expr.args])
