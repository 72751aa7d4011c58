"""What a prompt's first pages are called: the same for sessions that may share them, and no others.

A page's digest is over all tokens up to its end and over whatever else its keys and values depend
on: the checkpoint, dtype and codec, and for each node those before it in the chain, so that what a
bad node spoilt is not found again once it is replaced. The key is drawn anew by each caller: a node
cannot guess a prompt by its digests (decision 0023).
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shardline.model import PAGE_TOKENS
from shardline.wire import DIGEST_BYTES, PREFIX_PAGES_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardline.core.ids import NodeId

__all__ = ["Naming", "Prefix", "along"]


@dataclass(frozen=True, slots=True)
class Prefix:
    """The whole pages of one prompt that leave a token to be computed."""

    prompt_tokens: int
    digests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Naming:
    """Names prompts of one model under one key."""

    kind: str
    """All that pages depend on beside their tokens."""
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def prefix(self, token_ids: Sequence[int]) -> Prefix:
        """The names of this prompt's pages."""
        chained = hashlib.blake2b(self.kind.encode(), key=self.key, digest_size=DIGEST_BYTES)
        digests: list[bytes] = []
        for page in range(min((len(token_ids) - 1) // PAGE_TOKENS, PREFIX_PAGES_MAX)):
            ids = token_ids[page * PAGE_TOKENS : (page + 1) * PAGE_TOKENS]
            chained.update(b"".join(token.to_bytes(8, "little") for token in ids))
            digests.append(chained.digest())
        return Prefix(len(token_ids), tuple(digests))


def along(digests: Sequence[bytes], before: Sequence[NodeId]) -> list[bytes]:
    """These names for a node that has those nodes before it in the chain."""
    way = hashlib.blake2b("".join(before).encode(), digest_size=DIGEST_BYTES).digest()
    return [hashlib.blake2b(way + one, digest_size=DIGEST_BYTES).digest() for one in digests]
