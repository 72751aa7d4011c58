"""Pages that outlive their session, because others of the same caller begin with the same tokens.

A page is found by a digest of all tokens up to its end, so equal digests are equal prefixes. Who
makes the digests is the caller, who alone knows the tokens; what one caller had computed is never
found by another, who could not know whether it is right (decision 0023).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from shardline.core.spans import Span
from shardline.model import PAGE_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardline.model import Pages

__all__ = ["Named", "Prefixes", "Run", "Stretches", "first_of", "length"]

Key = tuple[str, Span, bytes]


@dataclass(frozen=True, slots=True)
class Named:
    """What a session's first pages are called by its caller, one digest a page."""

    owner: str
    digests: tuple[bytes, ...]


@dataclass(slots=True, eq=False)
class Run:
    """Pages that were kept together, and what they follow."""

    keys: tuple[Key, ...]
    pages: Pages
    before: Stretches
    used_at_s: float
    sessions: int = 0
    """Those that hold it, for themselves or as what comes before a run that they hold."""
    runs: int = 0
    """Kept runs that follow it."""


Stretches = tuple[tuple[Run, int], ...]
"""Runs that follow each other, and how many pages of each."""


def length(stretches: Stretches) -> int:
    """Pages in them."""
    return sum(pages for _, pages in stretches)


def first_of(stretches: Stretches, pages: int) -> Stretches:
    """The first so many pages of them."""
    found: Stretches = ()
    for run, its in stretches:
        if pages > 0:
            found = (*found, (run, min(its, pages)))
        pages -= its
    return found


class Prefixes:
    """All kept runs, the one that was used longest ago first; not thread-safe.

    Invariants: whatever a run follows is kept as long as it is; what a session holds is kept.
    """

    def __init__(self) -> None:
        self._runs: dict[int, Run] = {}
        self._places: dict[Key, tuple[Run, int]] = {}
        """Where a page is: its run, and the number of pages up to its end."""

    @property
    def tokens(self) -> int:
        """Cache tokens of all runs."""
        return sum(run.pages.tokens for run in list(self._runs.values()))

    @property
    def held_tokens(self) -> int:
        """Of those that sessions hold; the others can go."""
        return sum(run.pages.tokens for run in list(self._runs.values()) if run.sessions)

    def find(self, named: Named, span: Span) -> Stretches:
        """The longest kept prefix under these names, on exactly these blocks."""
        found: Stretches = ()
        for number, digest in enumerate(named.digests, start=1):
            run, end = self._places.get((named.owner, span, digest), (None, 0))
            if run is None or end != number:
                break
            found = (*run.before, (run, number - length(run.before)))
        return found

    def hold(self, stretches: Stretches, now_s: float) -> None:
        """For one session: these stay until they are released."""
        for run, _ in stretches:
            run.sessions += 1
            run.used_at_s = now_s
            self._runs.pop(id(run))
            self._runs[id(run)] = run

    def release(self, stretches: Stretches) -> None:
        """One session holds them no more."""
        for run, _ in reversed(stretches):
            run.sessions -= 1
            if not run.keys:
                self._drop(run)

    def keep(self, named: Named, span: Span, pages: Pages, before: Stretches, now_s: float) -> None:
        """Keep pages that follow these stretches, which `find` gave for the same names."""
        first = length(before)
        digests = named.digests[first : first + pages.tokens // PAGE_TOKENS]
        run = Run(tuple((named.owner, span, digest) for digest in digests), pages, before, now_s)
        for number, key in enumerate(run.keys, start=first + 1):
            self._places.setdefault(key, (run, number))
        for follows, _ in before:
            follows.runs += 1
        self._runs[id(run)] = run

    def free(self, tokens: int) -> int:
        """Let idle runs go, the longest unused first, until so many tokens went or none is left.

        Gives how many went.
        """
        freed = 0
        while freed < tokens:
            idle = (run for run in self._runs.values() if not run.sessions and not run.runs)
            run = next(idle, None)
            if run is None:
                break
            self._drop(run)
            freed += run.pages.tokens
        return freed

    def expire(self, before_s: float) -> None:
        """Let the runs go that were used before this time only."""
        for run in reversed(list(self._runs.values())):
            if run.used_at_s < before_s:
                self._drop(run)

    def forget(self) -> None:
        """Nothing is found any more; what sessions hold goes when they do."""
        self._places.clear()
        for run in list(self._runs.values()):
            run.keys = ()
        while any(not run.sessions and not run.runs for run in self._runs.values()):
            self.free(1)

    def check_integrity(self) -> None:
        """Raise AssertionError if an invariant is broken; tests call it after every step."""
        follow = [run for later in self._runs.values() for run, _ in later.before]
        for run in self._runs.values():
            assert id(run) in self._runs
            assert run.runs == follow.count(run)
            assert all(earlier.sessions >= run.sessions for earlier, _ in run.before)
        assert all(id(run) in self._runs for run in follow)
        assert all(id(run) in self._runs for run, _ in self._places.values())
        times = [run.used_at_s for run in self._runs.values()]
        assert all(earlier <= later for earlier, later in pairwise(times))

    def held_by(self, all_held: Iterable[Stretches]) -> bool:
        """Whether these are exactly what sessions hold; for checks."""
        counts = {key: run.sessions for key, run in self._runs.items()}
        for stretches in all_held:
            for run, _ in stretches:
                counts[id(run)] -= 1
        return not any(counts.values())

    def _drop(self, run: Run) -> None:
        """Forget a run that nobody holds and none follows."""
        if run.sessions or run.runs or self._runs.pop(id(run), None) is None:
            return
        for key in run.keys:
            if self._places.get(key, (None, 0))[0] is run:
                del self._places[key]
        for earlier, _ in run.before:
            earlier.runs -= 1
