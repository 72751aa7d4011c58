"""What a block of a model costs on one device: figures, the lines through them, and their file.

Measuring is in `profiling`. A step's cost is told by two straight lines a kind of block: a decode
step reads all weights once whatever it computes, so its fixed part is nearly all of it; a prompt
multiplies, and pays by the token. The lines are fitted to what was measured, never negative, and
so a longer span, a larger batch or more tokens never cost less (PAPER section 2 plans with this).
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from shardline.core.errors import BlocksOutOfRange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardline.core.spans import Span

__all__ = [
    "BlockKind",
    "Line",
    "Profile",
    "Setup",
    "Timing",
    "fit",
    "keep_profile",
    "kept_profile",
    "newest_profile",
]

FILE_BYTES_MAX: Final = 2**22
"""A larger file is none of ours."""

_log = logging.getLogger(__name__)

_Ms = Annotated[float, Meta(ge=0, le=1e12)]
_Count = Annotated[int, Meta(ge=1, le=2**40)]
_Bytes = Annotated[int, Meta(ge=0, le=2**60)]
_Index = Annotated[int, Meta(ge=0, le=65_536)]
_Word = Annotated[str, Meta(max_length=256)]


@dataclass(frozen=True, slots=True)
class Timing:
    """One kind of step through one block, timed again and again."""

    batch: _Count
    tokens: _Count
    """New positions of each sequence."""
    context_tokens: _Bytes
    """Positions that the cache held before."""
    median_ms: _Ms
    low_ms: _Ms
    """A quarter of the repeats was as quick as this or quicker."""
    high_ms: _Ms
    """A quarter was as slow as this or slower."""
    repeats: _Count


@dataclass(frozen=True, slots=True)
class Line:
    """What `positions` cost: `fixed_ms + per_token_ms * positions`."""

    fixed_ms: _Ms
    per_token_ms: _Ms

    def ms(self, positions: int) -> float:
        """At so many positions, over all sequences of a step."""
        return self.fixed_ms + self.per_token_ms * positions


@dataclass(frozen=True, slots=True)
class BlockKind:
    """Blocks of one structure: measured once, true of all."""

    name: _Word
    """The class of the block, for people."""
    blocks: tuple[_Index, ...]
    parameter_bytes: _Bytes
    cache_bytes_per_token: _Bytes
    cache_bytes_fixed: _Bytes
    """Of a sequence whatever its length: recurrent states."""
    timings: tuple[Timing, ...]
    decode: Line
    """Of a step of one token for each sequence."""
    prefill: Line

    def step_ms(self, tokens: int, batch: int) -> float:
        """One step through one such block; more tokens than one never cost less than one."""
        decode_ms = self.decode.ms(batch)
        return decode_ms if tokens == 1 else max(decode_ms, self.prefill.ms(tokens * batch))


@dataclass(frozen=True, slots=True)
class Setup:
    """What a profile is true of: where one of these differs, it has to be measured anew."""

    fingerprint: _Word
    """Of the model's configuration: the weights' values do not change their speed."""
    device: _Word
    """The hardware's own name."""
    dtype: _Word
    threads: _Count
    torch: _Word
    products: _Word
    """What multiplies by weights: see `packed.products`."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A model's blocks on one device."""

    setup: Setup
    model: _Word
    """The model's name, for people."""
    measured_at_s: Annotated[float, Meta(ge=0, le=1e12)]
    """Seconds since 1970, UTC."""
    output_bytes_per_token: _Bytes
    """What one position carries from block to block."""
    kinds: tuple[BlockKind, ...]
    """In the order of their first blocks."""

    def __post_init__(self) -> None:
        held = sorted(block for kind in self.kinds for block in kind.blocks)
        if not held or held != list(range(len(held))):
            raise ValueError(f"kinds of {len(held)} blocks that are no chain from block 0 on")

    @property
    def blocks(self) -> int:
        """How many blocks the model has."""
        return sum(len(kind.blocks) for kind in self.kinds)

    def step_ms(self, span: Span, tokens: int = 1, batch: int = 1) -> float:
        """One step of so many new tokens for each of `batch` sequences through these blocks.

        Raises BlocksOutOfRange, and ValueError for no tokens or no batch.
        """
        if tokens < 1 or batch < 1:
            raise ValueError(f"a step of {batch} x {tokens} tokens")
        if span.stop > self.blocks:
            raise BlocksOutOfRange(f"blocks {span} are not within this model's 0:{self.blocks}")
        return sum(
            kind.step_ms(tokens, batch) * sum(block in span for block in kind.blocks)
            for kind in self.kinds
        )

    def block_ms(self, tokens: int = 1, batch: int = 1) -> tuple[float, ...]:
        """The same for each block alone."""
        by_block = {block: kind for kind in self.kinds for block in kind.blocks}
        return tuple(by_block[block].step_ms(tokens, batch) for block in range(self.blocks))

    def to_json(self) -> bytes:
        """One JSON object."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> Profile:
        """What `to_json` wrote; raises ValueError for anything else."""
        return _profiles.decode(data)


_profiles = msgspec.json.Decoder(Profile)


def fit(timings: Sequence[Timing]) -> Line:
    """The line nearest to these by relative error, of those that nowhere fall or go below zero."""
    if not timings:
        raise ValueError("no line through nothing")
    points = [(t.batch * t.tokens, max(t.median_ms, 1e-6)) for t in timings]
    # Least squares of (fixed + slope x) / y - 1; at an edge of what is allowed one of them is 0.
    a = sum(1 / y**2 for _, y in points)
    b = sum(x / y**2 for x, y in points)
    c = sum(x * x / y**2 for x, y in points)
    d, e = sum(1 / y for _, y in points), sum(x / y for x, y in points)
    lines = [Line(d / a, 0.0), Line(0.0, e / c)]
    if len({x for x, _ in points}) > 1:
        inner = a * c - b * b
        fixed_ms, per_token_ms = (c * d - b * e) / inner, (a * e - b * d) / inner
        if fixed_ms >= 0 and per_token_ms >= 0:
            return Line(fixed_ms, per_token_ms)
    return min(lines, key=lambda line: sum((line.ms(x) / y - 1) ** 2 for x, y in points))


# --- FILES ---


def kept_profile(folder: Path, setup: Setup) -> Profile | None:
    """What `keep_profile` kept of this setup; None if nothing, or nothing that can be used."""
    kept = _read(_file(folder, setup))
    return kept if kept is not None and kept.setup == setup else None


def newest_profile(folder: Path, fingerprint: str, dtype: str) -> Profile | None:
    """The latest that was measured of this model and dtype, with whatever device and threads."""
    kept = (_read(file) for file in folder.glob(f"{fingerprint[:16]}-*.json"))
    fitting = [
        profile
        for profile in kept
        if profile is not None
        and (profile.setup.fingerprint, profile.setup.dtype) == (fingerprint, dtype)
    ]
    return max(fitting, key=lambda profile: profile.measured_at_s, default=None)


def keep_profile(folder: Path, profile: Profile) -> None:
    """Write it, whole or not at all; a folder that cannot be written is a warning only."""
    scratch: Path | None = None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix=".profile.")
        scratch = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(profile.to_json())
        scratch.replace(_file(folder, profile.setup))
    except OSError as error:
        _log.warning("the profile cannot be kept in %s: %s", folder, error.strerror)
    finally:
        if scratch is not None:
            scratch.unlink(missing_ok=True)


def _read(file: Path) -> Profile | None:
    try:
        with file.open("rb") as stream:
            data = stream.read(FILE_BYTES_MAX + 1)
        return None if len(data) > FILE_BYTES_MAX else Profile.from_json(data)
    except (OSError, ValueError, RecursionError):
        return None


def _file(folder: Path, setup: Setup) -> Path:
    digest = hashlib.sha256(msgspec.json.encode(setup)).hexdigest()[:16]
    return folder / f"{setup.fingerprint[:16]}-{digest}.json"
