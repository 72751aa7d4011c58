"""The cache of a session on blocks that attend to an encoder's states too (decision 0029).

Two caches in one, as Transformers has it: keys and values of the decoder's own tokens, which grow
with each step, and those of the encoder's states, which a block makes once, in the session's first
step. The states themselves are kept too: blocks ask for them in every step, and they cross a link
only once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from transformers.cache_utils import DynamicCache, DynamicLayer, EncoderDecoderCache

from shardline.core.errors import PeerFault
from shardline.model.caches import SpanCache, layer_bytes

if TYPE_CHECKING:
    import torch

    from shardline.model.pages import Pages

__all__ = ["CrossCache", "SessionCache"]


class CrossCache(EncoderDecoderCache):
    """One session's cache on one span of a decoder: its own tokens', and an encoder's states'."""

    def __init__(self, own: SpanCache) -> None:
        """`own` is the cache of the decoder's tokens; the encoder's lie in as many layers."""
        cross: Any = DynamicCache()
        cross.layers = [DynamicLayer() for _ in own.layers]
        cast("Any", super()).__init__(own, cross)
        self.own = own
        self.kept: tuple[torch.Tensor, ...] = ()
        """The encoder's states, each (rows, their tokens, width)."""

    @property
    def tokens(self) -> int:
        """Tokens of the decoder that were seen."""
        return self.own.tokens

    @tokens.setter
    def tokens(self, tokens: int) -> None:
        self.own.tokens = tokens

    @property
    def held_tokens(self) -> int:
        """Tokens whose keys and values are held of each row: the decoder's and the encoder's."""
        return self.own.held_tokens + sum(int(states.shape[1]) for states in self.kept)

    @property
    def keeps_all(self) -> bool:
        """Never: what comes in pieces, or is shared, is the decoder's past and nothing else."""
        return False

    def keep(self, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The encoder's states, which a first step brings; raises PeerFault for others later."""
        if states and self.own.tokens:
            raise PeerFault("an encoder's states after a session's first step")
        if states:
            self.kept = states
        return self.kept

    def pages(self, first: int, stop: int) -> Pages | None:
        """None: its tokens follow from an encoder's states, which no other session has."""
        del first, stop

    def truncate(self, tokens: int) -> None:
        """Raise ValueError: what a session begins with is kept once."""
        raise ValueError(f"a session with an encoder's states cannot be cut to {tokens} tokens")

    def check_integrity(self) -> None:
        """Raise AssertionError if an invariant is broken; tests call it between steps."""
        self.own.check_integrity()
        states = sum(int(states.shape[1]) for states in self.kept)
        for index, layer in enumerate(
            cast("list[DynamicLayer]", self.cross_attention_cache.layers)
        ):
            assert layer.get_seq_length() in {0, states}
            assert bool(layer.get_seq_length()) == bool(cast("Any", self).is_updated[index])

    @property
    def memory_bytes(self) -> int:
        """Bytes of all of the session's own tensors, as far as they are filled."""
        cross = sum(map(layer_bytes, self.cross_attention_cache.layers))
        return self.own.memory_bytes + cross + sum(states.nbytes for states in self.kept)


SessionCache = SpanCache | CrossCache
"""What a session keeps on a span."""
