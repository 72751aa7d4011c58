"""Every call of a kernel, for who wants to see them: to time them, or to make them again."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    Watch = Callable[[Callable[..., Any], tuple[Any, ...]], Any]

__all__ = ["DONE", "call", "watched"]

DONE: Final = 1
"""What a kernel tells that may fail and did not; others tell nothing."""


class _Now(threading.local):
    """Who watches this thread."""

    watch: Watch | None = None


_now = _Now()


def call(kernel: Callable[..., Any], *given: Any) -> Any:  # noqa: ANN401  (types of C)
    """What the kernel gives; every call of one goes through here.

    Calls within a call are part of it.
    """
    watch = _now.watch
    if watch is None:
        return kernel(*given)
    _now.watch = None
    try:
        return watch(kernel, given)
    finally:
        _now.watch = watch


@contextlib.contextmanager
def watched(watch: Watch) -> Generator[None]:
    """Within, `watch` gets this thread's kernels and what they are given, and calls them."""
    before, _now.watch = _now.watch, watch
    try:
        yield
    finally:
        _now.watch = before
