"""In which codec a seat writes what it hands on (decision 0018).

Whoever opens a session says for each link how coarsely hidden states may cross it; a node may be
told to stay finer. Only what the chain carries is written so: side inputs stay exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from shardline.codec import BLOCK, WIRES, Meter, coarsest, encoder, exactly, pack
from shardline.model import Crossing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shardline.core.segments import Segment
    from shardline.model import AnyCrossing, Returned

__all__ = ["EXACT", "Wires", "Wiring", "Written"]

RAW: Final = WIRES[0]


@dataclass(frozen=True, slots=True)
class Wires:
    """How one node writes, and reads."""

    coarsest: str = RAW
    """Finer where a session wants it."""
    read: Callable[[Any], AnyCrossing] = Crossing.from_tree
    """What makes a step of the plain data that came; raises PeerFault for anything else."""


EXACT: Final = Wires()


@dataclass(frozen=True, slots=True)
class Written:
    """A step's outputs as bytes, and what became of its hidden states."""

    segments: list[memoryview]
    wire: str
    saved_bytes: int

    @property
    def size_bytes(self) -> int:
        """Of all segments."""
        return sum(map(len, self.segments))


@dataclass(slots=True)
class Wiring:
    """How one seat writes."""

    wires: Wires = EXACT
    block: int = BLOCK
    wire: str = RAW
    """The codec for the next node."""
    coarse: bool = False
    """What was written so far may be in a codec that not every node reads."""

    def turn_to(self, allowed: str) -> None:
        """From now on write for a node that may be sent this codec at the coarsest."""
        self.wire = self._agreed(allowed)
        self.coarse |= self.wire != RAW

    def write(self, out: AnyCrossing | Returned) -> Written:
        """The outputs for the next node or, after the last block, for the caller."""
        meter = Meter(encoder(self.wire, block=self.block))
        segments = pack(out.to_tree(), out.carried, meter)
        return Written(segments, meter.wire, max(0, meter.saved_bytes))

    def readable(
        self, segments: Sequence[Segment], allowed: str | None = None
    ) -> Sequence[Segment]:
        """What was written, as this node (None: the next one) can read it, with the same values.

        It may have been written for another one, which died.
        """
        wire = self.wire if allowed is None else self._agreed(allowed)
        return exactly(segments) if self.coarse and wire == RAW else segments

    def _agreed(self, allowed: str) -> str:
        return coarsest(WIRES, allowed, self.wires.coarsest)
