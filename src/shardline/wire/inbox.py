"""Frames that wait for their reader: bounded, and filled from any thread."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from shardline.wire.transport import STRANGER_BYTES_MAX, ChannelClosed

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["Inbox"]

FRAMES_MAX: Final = 4_096
"""Frames that may wait, however small: a frame costs memory beyond its bytes."""


class Inbox:
    """One pipe's unread frames. A sender that overfills it ends the pipe: `overfilled` is called.

    `offer` and `end` may be called from any thread, the rest on the event loop.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, overfilled: Callable[[], None] | None = None
    ) -> None:
        self._loop = loop
        self._overfilled = overfilled
        self._lock = threading.Lock()
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._bytes_max = STRANGER_BYTES_MAX
        self._end: ChannelClosed | None = None
        self._reader: asyncio.Future[None] | None = None
        self._waking = False

    def widen(self, bytes_max: int) -> None:
        """Let this many bytes wait."""
        self._bytes_max = bytes_max

    def room_for(self, size_bytes: int) -> bool:
        """Whether a frame of this size may come in: ask before copying it."""
        return self._bytes + size_bytes <= self._bytes_max and len(self._frames) < FRAMES_MAX

    def offer(self, frame: bytes) -> None:
        """Put a frame in for which there is room."""
        with self._lock:
            if self._end is not None:
                return
            self._frames.append(frame)
            self._bytes += len(frame)
        self._wake_soon()

    def overfill(self) -> None:
        """A frame came for which there is no room: the pipe is over."""
        self.end(ChannelClosed("a peer sent more than may wait here"), at_once=True)
        if self._overfilled is not None:
            with suppress(RuntimeError):  # the loop has closed
                self._loop.call_soon_threadsafe(self._overfilled)

    def end(self, error: ChannelClosed, *, at_once: bool = False) -> None:
        """The last frame is in; the first reason that is given stays."""
        with self._lock:
            if at_once:
                self._frames.clear()
                self._bytes = 0
            self._end = self._end or error
        self._wake_soon()

    @property
    def ended(self) -> ChannelClosed | None:
        """Why nothing more will come, or None."""
        return self._end

    async def take(self) -> bytes:
        """The next frame; raises ChannelClosed after the last one."""
        while True:
            with self._lock:
                if self._frames:
                    frame = self._frames.popleft()
                    self._bytes -= len(frame)
                    return frame
                if self._end is not None:
                    raise ChannelClosed(*self._end.args)
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None

    def _wake_soon(self) -> None:
        if not self._waking:  # a wake-up under way will find this frame too
            self._waking = True
            with suppress(RuntimeError):  # the loop has closed
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._waking = False
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
