"""What goes from span to span, and what comes back from the last (PAPER section 1).

A crossing is pure data: the values that each block hands to the next (`carried`), and for each
block still ahead the other inputs that the caller's own forward gave it (`calls`). Masks and
rotary tables differ from layer to layer in many architectures, so each block has its call; equal
calls are kept once. In a call, `Marker("carried", k)` stands where the carried values go in and
`Marker("cache")` where the node's own cache goes in. An encoder's states, which every step of a
decoder is given, cross in a session's first step only: nodes keep them, and `Marker("kept", k)`
stands for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeGuard, cast

import torch

from shardline.codec import Marker
from shardline.core.errors import PeerFault
from shardline.model.strides import laid, lie_of
from shardline.model.trees import Leaf, Path, Tree, get, leaves, map_leaves

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "CACHE",
    "STEP_TOKENS",
    "Call",
    "Crossing",
    "End",
    "Returned",
    "carried_marker",
    "kept_marker",
    "tensors_at",
    "width_of",
]

CACHE: Final = Marker("cache")
"""Stands for the session's cache, which never crosses a link."""

BLOCKS_MAX: Final = 4096
CARRIED_MAX: Final = 8
RANKS: Final = range(2, 5)
"""(tokens, width), (batch, tokens, width) or (batch, channels, height, width)."""
TEXT_RANK: Final = 3
STEP_TOKENS: Final = 128
"""What a step counts in an engine if it is not of tokens: as many as have a round of their own."""


def carried_marker(index: int) -> Marker:
    """Stands for the carried value of this index."""
    return Marker("carried", index)


def kept_marker(index: int) -> Marker:
    """Stands for the encoder's states of this index."""
    return Marker("kept", index)


_MARKERS: Final = frozenset(
    {CACHE} | {make(at) for make in (carried_marker, kept_marker) for at in range(CARRIED_MAX)}
)
"""All that may stand in a call."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One block's inputs: positional and keyword trees of tensors, plain values and markers."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class End:
    """A tensor that a chain's last block gives back."""

    path: Path
    """Where it is in that block's output."""
    rank: int
    width: int | None
    """As `width_of` has it; None where nobody knows which of its sizes stay."""
    like: int | None
    """The carried value of the chain's first block whose very shape it has."""
    dtype: torch.dtype | None = None
    """None for that of what was sent. Mamba's blocks give float32 whatever they are given."""


@dataclass(frozen=True, slots=True, eq=False)
class Crossing:
    """One step of a session, on its way to block `start`.

    `carried` are the values handed over, mostly one hidden state (batch, tokens, width);
    `order[i]` says which of `calls` block `start + i` gets, to the end of the chain. What shall
    come back, `ends`, is the caller's to know and crosses no link.
    """

    start: int
    carried: tuple[torch.Tensor, ...]
    calls: tuple[Call, ...]
    order: tuple[int, ...]
    ends: tuple[End, ...] = ()
    kept: tuple[torch.Tensor, ...] = ()
    """An encoder's states, each (batch, its tokens, width), in a session's first step."""

    @property
    def batch(self) -> int:
        """Sequences in this step."""
        return int(self.carried[0].shape[0])

    @property
    def tokens(self) -> int:
        """New positions of each sequence in this step; STEP_TOKENS where there are none."""
        first = self.carried[0]
        return int(first.shape[1]) if first.dim() == TEXT_RANK else STEP_TOKENS

    @property
    def kept_tokens(self) -> int:
        """Tokens of an encoder's states whose keys and values each sequence's cache takes."""
        return sum(int(states.shape[1]) for states in self.kept)

    @property
    def cache_tokens(self) -> int:
        """Tokens of each sequence that the step adds to a cache."""
        return self.tokens + self.kept_tokens

    def check(self, returned: Returned) -> None:
        """Raise PeerFault unless this can be what the chain gives back for this step."""
        back = tensors_at(returned.output, tuple(end.path for end in self.ends))
        for end, tensor in zip(self.ends, back, strict=True):
            sent = self.carried[0 if end.like is None else end.like]
            shape = tuple(tensor.shape)
            if end.like is not None:
                fits = shape == tuple(sent.shape)
            else:
                fits = tensor.dim() == end.rank and end.width in (None, width_of(shape))
                fits &= shape[:1] in ((1,), tuple(sent.shape[:1]))
            if not fits or tensor.dtype != (end.dtype or sent.dtype):
                what = f"{tuple(sent.shape)} of {sent.dtype}"
                raise PeerFault(f"{shape} of {tensor.dtype} came back for {what}")

    def after(self, start: int, carried: tuple[torch.Tensor, ...]) -> Crossing:
        """The crossing on to block `start`; calls that no later block needs are left behind."""
        rest = self.order[start - self.start :]
        kept = sorted(set(rest))
        place = {old: new for new, old in enumerate(kept)}
        calls = tuple(self.calls[old] for old in kept)
        order = tuple(place[old] for old in rest)
        return Crossing(start, carried, calls, order, kept=self.kept)

    def again(self, tensors: Mapping[int, torch.Tensor]) -> Crossing | None:
        """The same step with other tensors of the same kinds, by the ids of its own.

        None if it has some that are not named.
        """

        def swap(tree: Tree) -> Tree:
            if isinstance(tree, torch.Tensor):
                return tensors[id(tree)]
            if type(tree) is dict:
                items = cast("dict[str, Any]", tree).items()
                return {key: swap(child) for key, child in items}
            if type(tree) in {tuple, list}:
                children = [swap(child) for child in tree]
                return tuple(children) if type(tree) is tuple else children
            return tree

        try:
            calls = tuple([Call(swap(call.args), swap(call.kwargs)) for call in self.calls])
            return Crossing(
                self.start, swap(self.carried), calls, self.order, self.ends, swap(self.kept)
            )
        except KeyError:
            return None

    def to_tree(self) -> dict[str, Any]:
        """As plain data for the codec."""
        calls = tuple((call.args, call.kwargs) for call in self.calls)
        return {
            "start": self.start,
            "carried": self.carried,
            "lie": lie_of(self.carried),
            "calls": calls,
            "order": self.order,
            "kept": self.kept,
        }

    @classmethod
    def from_tree(cls, tree: Tree) -> Crossing:
        """Read what a peer sent; raises PeerFault for anything that `to_tree` does not make."""
        names = ("start", "carried", "lie", "calls", "order", "kept")
        start, carried, lie, calls, order, kept = _fields(tree, *names)
        if not _is_index(start) or start >= BLOCKS_MAX:
            raise PeerFault("a crossing to no block")
        if not _is_carried(carried):
            raise PeerFault("a crossing without hidden states of 2 to 4 dimensions")
        if kept != () and not _is_kept(kept, carried[0].shape[0]):
            raise PeerFault("a crossing with an encoder's states that are none")
        if not isinstance(calls, tuple) or not isinstance(order, tuple):
            raise PeerFault("a crossing whose calls or order is no tuple")
        if len(cast("tuple[Any, ...]", calls)) > len(cast("tuple[Any, ...]", order)):
            raise PeerFault("a crossing with more calls than blocks")
        read = tuple(map(_call, cast("tuple[Any, ...]", calls)))
        carried = tuple(laid(carried, lie))
        places = _order(cast("tuple[Any, ...]", order), start, len(read))
        return cls(start, carried, read, places, kept=cast("tuple[torch.Tensor, ...]", kept))


@dataclass(frozen=True, slots=True, eq=False)
class Returned:
    """What the last block gave back, whole, as the architecture returns it."""

    output: Tree
    places: tuple[Path, ...] = ()
    """Where in it hidden states are, which a coarse codec may write; crosses no link itself."""

    def to_tree(self) -> dict[str, Any]:
        """As plain data for the codec."""
        held = [leaf for _, leaf in leaves(self.output) if isinstance(leaf, torch.Tensor)]
        return {"output": self.output, "lie": lie_of(held)}

    @classmethod
    def from_tree(cls, tree: Tree) -> Returned:
        """Read what a peer sent; raises PeerFault for anything that `to_tree` does not make."""
        output, lie = _fields(tree, "output", "lie")
        held: list[torch.Tensor] = []
        for _, leaf in leaves(output):
            if isinstance(leaf, Marker) and leaf != CACHE:
                raise PeerFault("a result with a marker that is not the cache's")
            if isinstance(leaf, torch.Tensor):
                held.append(leaf)
        placed = iter(laid(held, lie))
        if lie:
            output = map_leaves(
                output, lambda _, x: next(placed) if isinstance(x, torch.Tensor) else x
            )
        return cls(output)

    @property
    def carried(self) -> tuple[torch.Tensor, ...]:
        """The hidden states in it; raises PeerFault where there is no tensor."""
        return tensors_at(self.output, self.places)


def tensors_at(tree: Tree, places: tuple[Path, ...]) -> tuple[torch.Tensor, ...]:
    """What is at these places; raises PeerFault where there is no tensor."""
    found: list[torch.Tensor] = []
    for path in places:
        try:
            leaf = get(tree, path)
        except (LookupError, TypeError):
            leaf = None
        if not isinstance(leaf, torch.Tensor):
            raise PeerFault(f"a result without a tensor at {path}")
        found.append(leaf)
    return tuple(found)


def width_of(shape: Sequence[int]) -> int:
    """The size that is the same at every step of texts: of heads in four dimensions."""
    return int(shape[1 if len(shape) == RANKS[-1] else -1])


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
    return all(
        isinstance(t, torch.Tensor) and t.dim() in RANKS and t.is_floating_point() and t.numel() > 0
        for t in items
    )


def _is_kept(value: Leaf, batch: int) -> bool:
    return _is_carried(value) and all(
        states.dim() == TEXT_RANK and states.shape[0] == batch for states in value
    )


def _call(tree: Tree) -> Call:
    pair = cast("tuple[Any, ...]", tree) if isinstance(tree, tuple) else ()
    if [type(part) for part in pair] != [tuple, dict]:
        raise PeerFault("a call that is no pair of positional and keyword inputs")
    for _, leaf in leaves(pair):
        if isinstance(leaf, Marker) and leaf not in _MARKERS:
            raise PeerFault("a call with a marker that is none of ours")
    return Call(*pair)


def _order(order: tuple[Any, ...], start: int, calls: int) -> tuple[int, ...]:
    if not 0 < len(order) <= BLOCKS_MAX - start:
        raise PeerFault(f"a crossing to {len(order)} blocks")
    for index in order:
        if not _is_index(index) or index >= calls:
            raise PeerFault(f"a crossing that names none of its {calls} calls")
    return cast("tuple[int, ...]", order)
