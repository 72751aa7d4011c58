"""A long step as several shorter ones, with the same outcome: so that others need not wait for it.

Side inputs are cut by their shapes, as `merging` joins them. What keeps more of the past than keys
and values, or less (recurrent states, sliding windows), is not cut.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

import torch

from shardline.model.crossing import CACHE, Call, Crossing, Returned
from shardline.model.merging import MASK_RANK, Cannot, is_tokenwise
from shardline.model.trees import Leaf, Path, Tree, get, leaves, map_leaves

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["cut", "joined_carried", "joined_tree", "led_by", "split"]

MASK: Final[Path] = (1, "attention_mask")


def cut(crossing: Crossing, past_tokens: int, tokens: int) -> list[Crossing]:
    """The same step in pieces of at most `tokens` tokens of each sequence, the last to be run last.

    `past_tokens` are those that the session's cache holds of each. Raises Cannot.
    """
    bounds = [*range(0, crossing.tokens, tokens), crossing.tokens]
    return [_part(crossing, past_tokens, *bound) for bound in pairwise(bounds)]


def split(crossing: Crossing, tokens: int) -> tuple[Crossing, Crossing] | None:
    """A session's first step as two, of so many tokens and of the rest; None if it cannot be."""
    try:
        return _part(crossing, 0, 0, tokens), _part(crossing, 0, tokens, crossing.tokens)
    except Cannot:
        return None


def led_by(tokens: int, returned: Returned, given: int) -> Returned:
    """What came back for `given` tokens, behind `tokens` others that nobody computed: NaN or 0."""

    def lead(_: Path, leaf: Leaf) -> Leaf:
        if not isinstance(leaf, torch.Tensor) or leaf.shape[1:2] != (given,):
            return leaf
        nothing = torch.nan if leaf.is_floating_point() else 0
        unknown = leaf.new_full((leaf.shape[0], tokens, *leaf.shape[2:]), nothing)
        return torch.cat([unknown, leaf], dim=1)

    return Returned(map_leaves(returned.output, lead))


def _part(crossing: Crossing, past: int, first: int, stop: int) -> Crossing:
    carried = tuple(tensor[:, first:stop] for tensor in crossing.carried)
    calls = tuple(_cut_call(call, crossing, past, first, stop) for call in crossing.calls)
    return Crossing(crossing.start, carried, calls, crossing.order, crossing.ends)


def _cut_call(call: Call, crossing: Crossing, past: int, first: int, stop: int) -> Call:
    def piece(path: Path, leaf: Leaf) -> Leaf:
        if leaf is None and path == MASK and first > 0:
            if past > 0:
                raise Cannot("no mask, though there is a past")
            return _causal(first, stop, crossing.carried[0].device)
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if leaf.dim() == MASK_RANK and leaf.shape[2:] == (crossing.tokens, past + crossing.tokens):
            return leaf[:, :, first:stop, : past + stop]
        if not is_tokenwise(leaf, crossing.batch, crossing.tokens):
            raise Cannot(f"a side input of shape {tuple(leaf.shape)}")
        return leaf[first:stop] if leaf.dim() == 1 else leaf[:, first:stop]

    tree = call.args, call.kwargs
    if first > 0 and not _has(tree, MASK):
        raise Cannot("a block without a mask")
    if CACHE not in [leaf for _, leaf in leaves(tree) if not isinstance(leaf, torch.Tensor)]:
        raise Cannot("a step that leaves nothing for the next piece to see")
    return Call(*map_leaves(tree, piece))


def _has(tree: Tree, path: Path) -> bool:
    try:
        get(tree, path)
    except (LookupError, TypeError):
        return False
    return True


def _causal(first: int, stop: int, device: torch.device) -> torch.Tensor:
    """Which of the keys [0, stop) the queries [first, stop) see: none after itself."""
    keys, queries = torch.arange(stop, device=device), torch.arange(first, stop, device=device)
    return (keys[None, :] <= queries[:, None])[None, None]


def joined_carried(pieces: Sequence[Crossing]) -> tuple[torch.Tensor, ...]:
    """What a step's pieces hand on, as the step would."""
    each = zip(*(piece.carried for piece in pieces), strict=True)
    return tuple(torch.cat(tensors, dim=1) for tensors in each)


def joined_tree(pieces: Sequence[Returned]) -> Returned:
    """What the last block gave for a step's pieces, as it would have for the step."""

    def join(path: Path, leaf: Leaf) -> Leaf:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return torch.cat([get(piece.output, path) for piece in pieces], dim=min(1, leaf.dim() - 1))

    return Returned(map_leaves(pieces[0].output, join), pieces[0].places)
