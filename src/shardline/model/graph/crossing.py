"""What goes from stage to stage: the values that are still needed, by name (PAPER section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import torch

from shardline.core.errors import PeerFault
from shardline.model.crossing import BLOCKS_MAX, STEP_TOKENS, Crossing
from shardline.model.graph.program import NAME_MAX, VALUES_MAX
from shardline.model.strides import laid, lie_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardline.model.graph.signature import Values
    from shardline.model.trees import Tree

__all__ = ["AnyCrossing", "StageCrossing", "check_values"]

_FIELDS: Final = {"start", "values", "lie"}


@dataclass(frozen=True, slots=True, eq=False)
class StageCrossing:
    """One step of a graph, on its way to stage `start`."""

    start: int
    values: Values
    """Tensors and numbers that this stage, a later one or the caller reads."""

    @property
    def batch(self) -> int:
        """A step is one, however many rows its tensors have."""
        return 1

    @property
    def tokens(self) -> int:
        """As many as have a round of their own; a session is one step, and reserves as much."""
        return STEP_TOKENS

    @property
    def cache_tokens(self) -> int:
        """What counts against what its session reserved."""
        return self.tokens

    @property
    def carried(self) -> tuple[torch.Tensor, ...]:
        """What a coarse codec may be used for, where a session allows one."""
        tensors = _tensors(self.values).values()
        return tuple(tensor for tensor in tensors if tensor.is_floating_point())

    def to_tree(self) -> dict[str, Any]:
        """As plain data for the codec."""
        lie = lie_of(list(_tensors(self.values).values()))
        return {"start": self.start, "values": self.values, "lie": lie}

    @classmethod
    def from_tree(cls, tree: Tree) -> StageCrossing:
        """Read what a peer sent; raises PeerFault for anything that `to_tree` does not make."""
        if not isinstance(tree, dict) or set(cast("dict[str, Any]", tree)) != _FIELDS:
            raise PeerFault("a tree whose fields are not start, values, lie")
        fields = cast("dict[str, Any]", tree)
        start, values, lie = fields["start"], fields["values"], fields["lie"]
        if type(start) is not int or not 0 <= start < BLOCKS_MAX:
            raise PeerFault("a crossing to no stage")
        if not isinstance(values, dict):
            raise PeerFault("a crossing to a stage without its values by name")
        given = cast("dict[str, Any]", values)
        check_values(given)
        held = _tensors(given)
        lying = zip(held, laid(list(held.values()), lie), strict=True)
        return cls(start, given | dict(lying))


AnyCrossing: TypeAlias = Crossing | StageCrossing
"""A step of a chain or of a graph."""


def check_values(values: Mapping[str, Any]) -> None:
    """Raise PeerFault unless these are tensors and numbers, and no more than a stage may have."""
    if len(values) > VALUES_MAX:
        raise PeerFault(f"{len(values)} values, more than {VALUES_MAX}")
    for name, value in values.items():
        if len(name) > NAME_MAX or not isinstance(value, torch.Tensor | bool | int | float):
            raise PeerFault(f"{name[:NAME_MAX]!r} is a {type(value).__name__}, no tensor or number")


def _tensors(values: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
