"""Wave files for models that listen."""

from __future__ import annotations

import wave
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["RATE", "rounded", "write_wave"]

RATE = 16_000


def rounded(samples: torch.Tensor, depth: int) -> torch.Tensor:
    """As whole numbers of so many bytes; those of one byte have no sign."""
    peak = 2.0 ** (8 * depth - 1)
    return (samples.double() * peak + (peak if depth == 1 else 0)).floor()


def write_wave(file: Path, samples: torch.Tensor, depth: int = 2, rate: int = RATE) -> Path:
    """These samples, (samples, channels), in a wave file."""
    kind = {1: torch.uint8, 2: torch.int16, 3: torch.int32, 4: torch.int32}[depth]
    raw = rounded(samples, depth).to(kind).contiguous().view(torch.uint8)
    if depth == 3:
        raw = raw.reshape(-1, 4)[:, :3].contiguous()
    with wave.open(str(file), "wb") as sound:
        sound.setnchannels(samples.shape[1])
        sound.setsampwidth(depth)
        sound.setframerate(rate)
        sound.writeframes(raw.numpy().tobytes())
    return file
