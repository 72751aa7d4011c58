"""One line on stderr that says what is being waited for, only where a person looks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from rich.status import Status

__all__ = ["Progress"]


class Progress:
    """A status line while it is entered; gives way as soon as text comes to the same terminal."""

    def __init__(self, text: str, *, wanted: bool = True) -> None:
        self._shared = sys.stdout.isatty()
        self._status: Status | None = None
        if wanted and sys.stderr.isatty():
            self._status = Console(stderr=True).status(text)

    def say(self, text: str) -> None:
        """What is being waited for now."""
        if self._status is not None:
            self._status.update(text)

    def count(self, tokens: int) -> None:
        """So many tokens have come: the text itself is the progress if it shares the terminal."""
        if self._shared:
            self.hide()
        self.say(f"{tokens} tokens")

    def hide(self) -> None:
        """Give the line back: text follows on the same terminal."""
        if self._status is not None:
            self._status.stop()

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()
