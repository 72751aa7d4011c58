"""Bursts: bytes sent for their own sake, so that one end can clock how fast a link is.

A Ping may carry a burst, or ask that its Pong carries one. Only the asker's clock counts, and it
cannot be fooled into too fast a link: the answer to a burst proves that all of it has come, and a
burst that was asked for cannot set out before it was, as it is sealed behind the Ping's nonce. A
peer can only make a link seem slower than it is.

What members can make a node send and hash is rationed; one that is at a burst already, its own or
another's, answers as to a plain Ping, which says: not now.
"""

from __future__ import annotations

from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from shardline.core.errors import PeerFault
from shardline.wire.messages import BURST_BYTES_MAX, Ping, Pong

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    Bytes = bytes | memoryview

__all__ = ["Bursts", "proof_of"]

RATION_BYTES: Final = 2**22
RATION_S: Final = 10.0
"""Bytes that are answered in so many seconds, all peers together: three peers that measure both
ways. More lets more measure at once, and lets a hostile member take more of our line."""


def proof_of(burst: Bytes) -> bytes:
    """What only who has all of these bytes can answer."""
    return sha256(burst).digest()


class Bursts:
    """Whether this node has time for a burst, and what it answers."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._taken = False
        self._spent_bytes = 0
        self._since_s = -RATION_S

    @contextmanager
    def taken(self) -> Generator[bool]:
        """Be at a burst while the context lasts; False if this node is at one already."""
        if self._taken:
            yield False
            return
        self._taken = True
        try:
            yield True
        finally:
            self._taken = False

    @contextmanager
    def answer(self, ping: Ping, burst: Sequence[Bytes]) -> Generator[tuple[Pong, list[bytes]]]:
        """The answer, to be sent within the context; raises PeerFault for too much."""
        size = sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in burst)
        if size > BURST_BYTES_MAX or len(burst) > 1:
            raise PeerFault(f"a ping of {size} bytes in {len(burst)} parts")
        if not size + ping.want_bytes:
            yield Pong(ping.nonce), []
            return
        with self.taken() as free:
            if free and self._ration(size + ping.want_bytes):
                proof = proof_of(burst[0]) if burst else b""
                yield Pong(ping.nonce, proof), [bytes(ping.want_bytes)] if ping.want_bytes else []
            else:
                yield Pong(ping.nonce), []

    def _ration(self, size_bytes: int) -> bool:
        now_s = self._clock()
        if now_s - self._since_s >= RATION_S:
            self._since_s, self._spent_bytes = now_s, 0
        if self._spent_bytes + size_bytes > RATION_BYTES:
            return False
        self._spent_bytes += size_bytes
        return True
