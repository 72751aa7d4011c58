"""Sealed frames: AES-256-GCM with one key and one counter per direction; sans-I/O.

A frame's number is never sent: both sides count, so a frame that is lost, repeated, moved or
changed fails like a forged one. Measured for 8 KiB and 1 MiB on a CPU with AES instructions:
AES-256-GCM 1.6 and 110 us, ChaCha20-Poly1305 3.1 and 288 us, libsodium's 9.5 and 1,540 us.
Small frames take one call; the parts of large ones are fed to the cipher one by one, so that
tensors are not joined first, and a MiB at a time, because the cipher holds the interpreter's
lock: a worker thread that seals a prefill then lets the event loop run in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from shardline.core.errors import PeerFault

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["KEY_BYTES", "TAG_BYTES", "Opener", "Sealer"]

KEY_BYTES: Final = 32
TAG_BYTES: Final = 16
_PIECE_BYTES: Final = 2**20
_ONE_CALL_BYTES: Final = 2**18
"""Up to here a copy costs less than setting up a cipher that takes parts (about 5 us)."""


def _pieces(parts: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    for part in parts:
        if len(part) <= _PIECE_BYTES:
            yield part
        else:
            view = memoryview(part)
            for start in range(0, len(view), _PIECE_BYTES):
                yield view[start : start + _PIECE_BYTES]


class _Counter:
    def __init__(self) -> None:
        self._next = 0

    def nonce(self) -> bytes:
        number, self._next = self._next, self._next + 1
        return number.to_bytes(12, "big")


class Sealer:
    """Seals what one side sends, in order. Not for two threads at once."""

    def __init__(self, key: bytes) -> None:
        self._key = AES(key)
        self._one_call = AESGCM(key)
        self._counter = _Counter()

    def seal(self, parts: Iterable[bytes | memoryview], size_bytes: int) -> bytes | bytearray:
        """The parts, `size_bytes` together, as one sealed frame of `size_bytes` + 16."""
        nonce = self._counter.nonce()
        if size_bytes <= _ONE_CALL_BYTES:
            return self._one_call.encrypt(nonce, b"".join(parts), None)
        cipher = Cipher(self._key, GCM(nonce)).encryptor()
        sealed = bytearray(size_bytes + TAG_BYTES)
        with memoryview(sealed) as view:
            at = 0
            for piece in _pieces(parts):
                at += cipher.update_into(piece, view[at:])
            if at != size_bytes:
                raise ValueError(f"parts of {at} bytes were announced as {size_bytes}")
            cipher.finalize()
            view[at:] = cipher.tag
        return sealed


class Opener:
    """Opens what the other side sealed, in order. Not for two threads at once."""

    def __init__(self, key: bytes) -> None:
        self._key = AES(key)
        self._one_call = AESGCM(key)
        self._counter = _Counter()

    def open(self, sealed: bytes | bytearray | memoryview) -> memoryview:
        """The frame in writable memory of its own.

        Raises PeerFault for any frame but the next, whole and unchanged; the channel is then dead.
        """
        view = memoryview(sealed)
        size = len(view) - TAG_BYTES
        if size < 0:
            raise PeerFault("a frame shorter than its seal")
        nonce = self._counter.nonce()
        try:
            if size <= _ONE_CALL_BYTES:
                return memoryview(bytearray(self._one_call.decrypt(nonce, view, None)))
            cipher = Cipher(self._key, GCM(nonce, bytes(view[size:]))).decryptor()
            frame = memoryview(bytearray(size))
            at = 0
            for piece in _pieces((view[:size],)):
                at += cipher.update_into(piece, frame[at:])
            cipher.finalize()
        except InvalidTag:
            raise PeerFault("a frame's seal is broken, or frames came out of order") from None
        return frame
