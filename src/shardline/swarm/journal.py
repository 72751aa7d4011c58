"""What a sender keeps so that it can send again (decision 0009).

Whoever sends to a span notes each step's segments, by seat. When the span's node dies, the notes
are sent to its replacement, which fills its cache from them: only the lost span is rebuilt. Pure:
bytes in, bytes out. The notes of all seats together are bounded; when they grow beyond, the
largest seat's are given up but for the last step, and its callers have to start further upstream.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shardline.core.errors import JournalLost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardline.core.ids import Seat
    from shardline.core.segments import Segment

__all__ = ["Entry", "Journals"]

ENTRY_BYTES = 256
"""What an entry takes beside its segments' bytes, roughly."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One step as it was sent."""

    step: int
    segments: tuple[Segment, ...]

    @property
    def size_bytes(self) -> int:
        """Memory that keeping it takes."""
        return ENTRY_BYTES + sum(map(len, self.segments))


@dataclass(slots=True)
class _Notes:
    entries: list[Entry] = field(default_factory=list[Entry])
    size_bytes: int = 0


class Journals:
    """Every seat's sent steps, in order; at most `limit_bytes` of them.

    Invariants: a seat's entries are consecutive steps, and its last one is never given up.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._seats: dict[Seat, _Notes] = {}
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """Memory of all entries."""
        return self._size_bytes

    def add(
        self, seat: Seat, step: int, segments: Sequence[Segment], *, only: bool = False
    ) -> None:
        """Note a step that follows the seat's last one; `only` gives up those before it."""
        notes = self._seats.setdefault(seat, _Notes())
        entry = Entry(step, tuple(segments))
        if only:
            self._shorten(notes, 0)
        size_bytes = entry.size_bytes
        notes.entries.append(entry)
        notes.size_bytes += size_bytes
        self._size_bytes += size_bytes
        while self._size_bytes > self._limit_bytes:
            largest = max(self._seats.values(), key=lambda kept: kept.size_bytes)
            if len(largest.entries) == 1:
                break  # every seat's last step is kept, whatever the limit
            self._shorten(largest, 1)

    def since(self, seat: Seat, step: int) -> tuple[Entry, ...]:
        """All entries from this step on; raises JournalLost if an earlier one was given up."""
        notes = self._seats.get(seat, _Notes())
        if notes.entries and notes.entries[0].step > step:
            raise JournalLost(f"steps before {notes.entries[0].step} are not kept any more")
        return tuple(entry for entry in notes.entries if entry.step >= step)

    def last(self, seat: Seat) -> Entry | None:
        """The step that was sent last."""
        notes = self._seats.get(seat)
        return notes.entries[-1] if notes and notes.entries else None

    def drop(self, seat: Seat) -> None:
        """Forget a seat; unknown ones are no matter."""
        notes = self._seats.pop(seat, None)
        if notes is not None:
            self._size_bytes -= notes.size_bytes

    def check_integrity(self) -> None:
        """Raise AssertionError if an invariant is broken; tests call it after every step."""
        for notes in self._seats.values():
            steps = [entry.step for entry in notes.entries]
            assert steps == list(range(steps[0], steps[0] + len(steps)))
            assert notes.size_bytes == sum(entry.size_bytes for entry in notes.entries)
        assert self._size_bytes == sum(notes.size_bytes for notes in self._seats.values())

    def _shorten(self, notes: _Notes, keep: int) -> None:
        """Give up all but the last `keep` entries."""
        gone = notes.entries[: len(notes.entries) - keep]
        del notes.entries[: len(gone)]
        freed = sum(entry.size_bytes for entry in gone)
        notes.size_bytes -= freed
        self._size_bytes -= freed
