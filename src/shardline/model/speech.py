"""What a model that listens is given: a wave file, by way of its own feature extractor."""

from __future__ import annotations

import wave
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from transformers import AutoFeatureExtractor

from shardline.core.errors import BadInput, NoSuchModel
from shardline.model.library import quiet

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["load_speech"]

_auto_extractor: Any = AutoFeatureExtractor
SECONDS_MAX: Final = 600
"""Of a file, for models that name no bound of their own."""
KINDS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
"""Of samples of so many bytes; those of 3 bytes are no type of torch's."""


def load_speech(model_dir: Path, file: Path) -> torch.Tensor:
    """Features of one wave file, (1, ...), as the extractor in the model's directory makes them.

    Channels are averaged. Raises NoSuchModel without an extractor, and BadInput for a file that is
    no wave file of whole-number samples, at another rate, or longer than the model hears at once.
    """
    with quiet():
        try:
            extractor: Any = _auto_extractor.from_pretrained(model_dir, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise NoSuchModel(f"{model_dir} has nothing that reads sound: {reason}") from None
        rate = int(getattr(extractor, "sampling_rate", 0))
        if not rate:
            raise NoSuchModel(f"{model_dir} reads no sound: {type(extractor).__name__}")
        most = int(getattr(extractor, "n_samples", SECONDS_MAX * rate))
        samples = _samples(file, rate, most)
        found = extractor(samples.numpy(), sampling_rate=rate, return_tensors="pt")
    return cast("torch.Tensor", found[extractor.model_input_names[0]])


def _samples(file: Path, rate: int, most: int) -> torch.Tensor:
    """At most so many samples, (samples,), between -1 and 1."""
    try:
        with wave.open(str(file), "rb") as sound:
            depth, channels = sound.getsampwidth(), sound.getnchannels()
            if sound.getframerate() != rate:
                raise BadInput(
                    f"{file} has {sound.getframerate()} samples a second, and this model hears"
                    f" {rate}: convert it first, as by `ffmpeg -i IN -ar {rate} OUT.wav`"
                )
            if depth not in KINDS:
                raise BadInput(f"{file} has samples of {depth} bytes: 1, 2 and 4 are read")
            if not 0 < sound.getnframes() <= most:
                raise BadInput(
                    f"{file} lasts {sound.getnframes() / rate:.1f} s, and this model hears up to"
                    f" {most / rate:.0f} s at once: give it a part"
                )
            data = bytearray(sound.readframes(sound.getnframes()))
    except (OSError, EOFError, wave.Error) as error:
        raise BadInput(f"{file} cannot be read as a wave file: {error}") from None
    data = data[: len(data) - len(data) % (depth * channels)]  # a file may end in mid-frame
    if not data:
        raise BadInput(f"{file} holds no sound")
    whole = torch.frombuffer(data, dtype=KINDS[depth]).reshape(-1, channels).double()
    middle = 2.0 ** (8 * depth - 1)
    centred = whole - middle if depth == 1 else whole
    return (centred / middle).mean(dim=1).float()
