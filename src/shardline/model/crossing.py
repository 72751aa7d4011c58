"""What goes from span to span, and what comes back from the last (PAPER section 1).

A crossing is pure data: the values that each block hands to the next (`carried`), and for each
block still ahead the other inputs that the caller's own forward gave it (`calls`). Masks and
rotary tables differ from layer to layer in many architectures, so each block has its call; equal
calls are kept once. In a call, `Marker("carried", k)` stands where the carried values go in and
`Marker("cache")` where the node's own cache goes in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeGuard, cast

import torch

from shardline.codec import Marker
from shardline.core.errors import PeerFault
from shardline.model.trees import Leaf, Path, Tree, get, leaves

__all__ = ["CACHE", "Call", "Crossing", "Returned", "carried_marker"]

CACHE: Final = Marker("cache")
"""Stands for the session's cache, which never crosses a link."""

BLOCKS_MAX: Final = 4096
CARRIED_MAX: Final = 8
RANK: Final = 3
"""Batch, tokens, width."""


def carried_marker(index: int) -> Marker:
    """Stands for the carried value of this index."""
    return Marker("carried", index)


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One block's inputs: positional and keyword trees of tensors, plain values and markers."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Crossing:
    """One step of a session, on its way to block `start`.

    `carried` are the values handed over, mostly one hidden state (batch, tokens, width);
    `order[i]` says which of `calls` block `start + i` gets, to the end of the chain.
    """

    start: int
    carried: tuple[torch.Tensor, ...]
    calls: tuple[Call, ...]
    order: tuple[int, ...]

    @property
    def batch(self) -> int:
        """Sequences in this step."""
        return int(self.carried[0].shape[0])

    @property
    def tokens(self) -> int:
        """New positions of each sequence in this step."""
        return int(self.carried[0].shape[1])

    def after(self, start: int, carried: tuple[torch.Tensor, ...]) -> Crossing:
        """The crossing on to block `start`; calls that no later block needs are left behind."""
        rest = self.order[start - self.start :]
        kept = sorted(set(rest))
        place = {old: new for new, old in enumerate(kept)}
        calls = tuple(self.calls[old] for old in kept)
        return Crossing(start, carried, calls, tuple(place[old] for old in rest))

    def to_tree(self) -> dict[str, Any]:
        """As plain data for the codec."""
        calls = tuple((call.args, call.kwargs) for call in self.calls)
        return {
            "start": self.start,
            "carried": self.carried,
            "calls": calls,
            "order": self.order,
        }

    @classmethod
    def from_tree(cls, tree: Tree) -> Crossing:
        """Read what a peer sent; raises PeerFault for anything that `to_tree` does not make."""
        start, carried, calls, order = _fields(tree, "start", "carried", "calls", "order")
        if not _is_index(start) or start >= BLOCKS_MAX:
            raise PeerFault(f"a crossing to block {start!r}")
        if not _is_carried(carried):
            raise PeerFault("a crossing without a hidden state of (batch, tokens, width)")
        if not isinstance(calls, tuple) or not isinstance(order, tuple):
            raise PeerFault("a crossing whose calls or order is no tuple")
        if len(cast("tuple[Any, ...]", calls)) > len(cast("tuple[Any, ...]", order)):
            raise PeerFault("a crossing with more calls than blocks")
        read = tuple(_call(call, len(carried)) for call in cast("tuple[Any, ...]", calls))
        return cls(start, carried, read, _order(cast("tuple[Any, ...]", order), start, len(read)))


@dataclass(frozen=True, slots=True, eq=False)
class Returned:
    """What the last block gave back, whole, as the architecture returns it."""

    output: Tree

    def to_tree(self) -> dict[str, Any]:
        """As plain data for the codec."""
        return {"output": self.output}

    @classmethod
    def from_tree(cls, tree: Tree) -> Returned:
        """Read what a peer sent; raises PeerFault for anything that `to_tree` does not make."""
        (output,) = _fields(tree, "output")
        for _, leaf in leaves(output):
            if isinstance(leaf, Marker) and leaf != CACHE:
                raise PeerFault(f"a result with a marker {leaf.name!r}")
        return cls(output)

    def carried(self, links: tuple[Path, ...]) -> tuple[torch.Tensor, ...]:
        """The values at these places; raises PeerFault where there is no tensor."""
        found: list[torch.Tensor] = []
        for path in links:
            try:
                leaf = get(self.output, path)
            except (LookupError, TypeError):
                leaf = None
            if not isinstance(leaf, torch.Tensor):
                raise PeerFault(f"a result without a tensor at {path}")
            found.append(leaf)
        return tuple(found)


def _fields(tree: Tree, *names: str) -> list[Any]:
    if not isinstance(tree, dict) or set(cast("dict[str, Any]", tree)) != set(names):
        raise PeerFault(f"a tree whose fields are not {', '.join(names)}")
    return [tree[name] for name in names]


def _is_index(value: Leaf) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_carried(value: Leaf) -> TypeGuard[tuple[torch.Tensor, ...]]:
    if not isinstance(value, tuple):
        return False
    items = cast("tuple[Any, ...]", value)
    if not 0 < len(items) <= CARRIED_MAX:
        return False
    if not all(isinstance(item, torch.Tensor) and item.dim() == RANK for item in items):
        return False
    tensors = cast("tuple[torch.Tensor, ...]", items)
    size = tensors[0].shape[:2]
    return all(t.is_floating_point() and t.numel() > 0 and t.shape[:2] == size for t in tensors)


def _call(tree: Tree, carried: int) -> Call:
    pair = cast("tuple[Any, ...]", tree) if isinstance(tree, tuple) else ()
    if [type(part) for part in pair] != [tuple, dict]:
        raise PeerFault("a call that is no pair of positional and keyword inputs")
    allowed = {CACHE, *(carried_marker(index) for index in range(carried))}
    for _, leaf in leaves(pair):
        if isinstance(leaf, Marker) and leaf not in allowed:
            raise PeerFault(f"a call with a marker {leaf.name!r} {leaf.index}")
    return Call(*pair)


def _order(order: tuple[Any, ...], start: int, calls: int) -> tuple[int, ...]:
    if not 0 < len(order) <= BLOCKS_MAX - start:
        raise PeerFault(f"a crossing to {len(order)} blocks")
    for index in order:
        if not _is_index(index) or index >= calls:
            raise PeerFault(f"a crossing that names call {index!r} of {calls}")
    return cast("tuple[int, ...]", order)
