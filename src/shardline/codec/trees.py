"""Trees of tensors to byte segments and back.

What crosses a link is a small structure (nested tuples, lists, dicts, plain values, markers) with
tensors at its leaves. `pack` turns it into segments: the first is the structure in MessagePack,
the others are the tensors' bytes, each tensor once however often the tree names it. `unpack`
checks every length, type and depth before a tensor is made: a peer's input is bounded first.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

import msgspec
import torch

from shardline.codec.raw import TensorHeader, to_bytes
from shardline.codec.wires import Encoder, from_bytes
from shardline.core.errors import PeerFault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from shardline.core.segments import Segment

__all__ = ["Marker", "Reader", "Tree", "exactly", "pack", "unpack"]

T = TypeVar("T")

Scalar = None | bool | int | float | str
if TYPE_CHECKING:
    Tree: TypeAlias = (
        "Scalar | Marker | torch.Tensor | tuple[Tree, ...] | list[Tree] | dict[str, Tree]"
    )
else:  # run-time checkers cannot follow an alias into itself
    Tree = Any

DEPTH_MAX: Final = 16
"""Blocks' side inputs nest two or three deep; more is a peer's mischief."""
LEAVES_MAX: Final = 65_536
"""Leaves and branches of one tree: 126 blocks with a hundred side inputs each stay below."""

STRUCTURE_BYTES_MAX: Final = 8 * 2**20
"""As many leaves with long names; reading it takes a few times as much memory."""
KNOWN_MAX: Final = 64
KNOWN_BYTES_MAX: Final = 2**16
"""Trees that a reader knows again, the last so many, and their size: tokens, not prompts."""


@dataclass(frozen=True, slots=True)
class Marker:
    """A leaf that stands for something the receiver already has, such as its own cache."""

    name: str
    index: int = 0


class _Tensor(msgspec.Struct, tag="t", array_like=True, frozen=True):
    index: int


class _Marker(msgspec.Struct, tag="m", array_like=True, frozen=True):
    name: str
    index: int


class _Tuple(msgspec.Struct, tag="u", array_like=True, frozen=True):
    items: list[_Node]


class _List(msgspec.Struct, tag="l", array_like=True, frozen=True):
    items: list[_Node]


class _Dict(msgspec.Struct, tag="d", array_like=True, frozen=True):
    items: dict[str, _Node]


_Node = None | bool | int | float | str | _Tensor | _Marker | _Tuple | _List | _Dict


_SCALARS = frozenset({type(None), bool, int, float, str})


class _Structure(msgspec.Struct, array_like=True, frozen=True):
    headers: list[TensorHeader]
    root: _Node


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Structure)


class _Packer:
    """One tree's tensors, each kept once."""

    def __init__(self) -> None:
        self.tensors: list[torch.Tensor] = []
        self._indices: dict[int, int] = {}

    def node(self, tree: Tree) -> _Node:
        if isinstance(tree, torch.Tensor):
            index = self._indices.setdefault(id(tree), len(self.tensors))
            if index == len(self.tensors):
                self.tensors.append(tree)
            return _Tensor(index)
        if isinstance(tree, Marker):
            return _Marker(tree.name, tree.index)
        if isinstance(tree, tuple):
            return _Tuple([self.node(item) for item in tree])
        if isinstance(tree, list):
            return _List([self.node(item) for item in tree])
        if isinstance(tree, dict):
            return _Dict({key: self.node(item) for key, item in tree.items()})
        if type(tree) in _SCALARS:
            return tree
        raise TypeError(f"a {type(tree).__name__} cannot cross a link")


def pack(
    tree: Tree, lossy: Iterable[torch.Tensor] = (), encode: Encoder = to_bytes
) -> list[memoryview]:
    """The tree as byte segments: its structure, then each tensor's bytes.

    Those of its tensors that are also in `lossy` are written by `encode`, all others exactly.
    Exact ones on the CPU are not copied: keep them unchanged until the segments are sent.
    Raises TypeError for a leaf that is no tensor, marker or plain value.
    """
    packer = _Packer()
    root = packer.node(tree)
    headers: list[TensorHeader] = []
    segments: list[memoryview] = []
    chosen = {id(tensor) for tensor in lossy}
    for tensor in packer.tensors:
        header, data = (encode if id(tensor) in chosen else to_bytes)(tensor)
        headers.append(header)
        segments.append(data)
    structure = memoryview(_encoder.encode(_Structure(headers, root)))
    return [structure, *segments]


class _Unpacker:
    """One tree's leaves, counted."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._tensors = tensors
        self._left = LEAVES_MAX

    def tree(self, node: _Node, depth: int = 0) -> Tree:
        self._left -= 1
        if depth > DEPTH_MAX or self._left < 0:
            raise PeerFault("a tree of inputs is too deep or too large")
        if isinstance(node, _Tensor):
            if not 0 <= node.index < len(self._tensors):
                raise PeerFault(f"tensor {node.index} of {len(self._tensors)} is named")
            return self._tensors[node.index]
        if isinstance(node, _Marker):
            return Marker(node.name, node.index)
        if isinstance(node, _Tuple):
            return tuple(self.tree(item, depth + 1) for item in node.items)
        if isinstance(node, _List):
            return [self.tree(item, depth + 1) for item in node.items]
        if isinstance(node, _Dict):
            return {key: self.tree(item, depth + 1) for key, item in node.items.items()}
        return node


def unpack(segments: Sequence[Segment]) -> Tree:
    """The tree that `pack` made the segments of; raises PeerFault for anything else.

    Each tensor's header says which codec wrote it. Exact ones share the segments' memory where it
    is writable, and are copied where it is not.
    """
    structure = _structure(segments)
    return _Unpacker(_tensors(structure.headers, segments)).tree(structure.root)


def _structure(segments: Sequence[Segment]) -> _Structure:
    if not segments or len(segments[0]) > STRUCTURE_BYTES_MAX:
        raise PeerFault("a tree without its structure, or with one that is too large")
    try:
        return _decoder.decode(segments[0])
    except (ValueError, RecursionError) as error:
        raise PeerFault(f"a tree's structure cannot be read: {error}") from None


def _tensors(headers: Sequence[TensorHeader], segments: Sequence[Segment]) -> list[torch.Tensor]:
    if len(headers) != len(segments) - 1:
        raise PeerFault(f"{len(headers)} tensors named, {len(segments) - 1} sent")
    return [from_bytes(*pair) for pair in zip(headers, segments[1:], strict=True)]


class Reader(Generic[T]):
    """Makes things of the trees that come; of one whose very structure came before, in less time.

    Sessions send the same structure with every token. `make` makes a thing of a tree, and raises
    PeerFault; it must look at the tensors' dtypes and shapes alone. `again` makes one like a thing
    that was made, with other tensors in place of its own, by the ids of these; None if it cannot.
    """

    def __init__(
        self,
        make: Callable[[Tree], T],
        again: Callable[[T, Mapping[int, torch.Tensor]], T | None] | None = None,
    ) -> None:
        self._make = make
        self._again = again
        self._known: OrderedDict[bytes, tuple[list[TensorHeader], list[int], T]] = OrderedDict()

    def __call__(self, segments: Sequence[Segment]) -> T:
        """What `make` makes of the tree; raises PeerFault for what is none."""
        known = self._known.get(bytes(segments[0])) if self._keeps(segments) else None
        if known is None or self._again is None:
            return self._first(segments)
        headers, ids, like = known
        tensors = _tensors(headers, segments)
        made = self._again(like, dict(zip(ids, tensors, strict=True)))
        assert made is not None
        return made

    def _keeps(self, segments: Sequence[Segment]) -> bool:
        return bool(segments) and sum(map(len, segments)) <= KNOWN_BYTES_MAX

    def _first(self, segments: Sequence[Segment]) -> T:
        structure = _structure(segments)
        tensors = _tensors(structure.headers, segments)
        made = self._make(_Unpacker(tensors).tree(structure.root))
        same = {id(tensor): tensor for tensor in tensors}
        keeps = self._again is not None and self._keeps(segments)
        if keeps and self._again is not None and self._again(made, same) is not None:
            if len(self._known) == KNOWN_MAX:
                self._known.popitem(last=False)
            self._known[bytes(segments[0])] = structure.headers, list(same), made
        return made


def exactly(segments: Sequence[Segment]) -> list[memoryview]:
    """What `pack` wrote, written raw: the values that anyone reads from it, for who reads no more.

    Raises PeerFault as `unpack` does.
    """
    return pack(unpack(segments))
