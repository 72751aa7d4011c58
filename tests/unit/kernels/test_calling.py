"""Who watches sees each call of a kernel of its thread, and makes it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from shardline.kernels import call, watched

if TYPE_CHECKING:
    from collections.abc import Callable

Seen = list[tuple[str, tuple[Any, ...]]]


def product(a: int, b: int) -> int:
    return a * b


def noting(seen: Seen, name: str) -> Callable[[Callable[..., Any], tuple[Any, ...]], Any]:
    def watch(kernel: Callable[..., Any], given: tuple[Any, ...]) -> Any:
        seen.append((name, given))
        return -kernel(*given)

    return watch


def test_each_call_is_seen_and_what_the_watch_gives_is_its_result() -> None:
    seen: Seen = []
    with watched(noting(seen, "one")):
        assert (call(product, 2, 3), call(product, 4, 5)) == (-6, -20)
    assert call(product, 6, 7) == 42
    assert seen == [("one", (2, 3)), ("one", (4, 5))]


def test_watches_nest_and_the_outer_one_is_back_after_an_error() -> None:
    seen: Seen = []
    with watched(noting(seen, "outer")):
        with pytest.raises(TypeError), watched(noting(seen, "inner")):
            call(product, 1)
        call(product, 2, 2)
    assert seen == [("inner", (1,)), ("outer", (2, 2))]
    assert call(product, 2, 2) == 4


def test_other_threads_are_not_watched() -> None:
    seen: Seen = []
    found: list[int] = []
    with watched(noting(seen, "here")):
        other = threading.Thread(target=lambda: found.append(call(product, 3, 3)))
        other.start()
        other.join()
    assert (found, seen) == ([9], [])
