"""Wave files become what the model's own extractor makes of their samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import ViTImageProcessor, WhisperFeatureExtractor

from shardline.core.errors import BadInput, NoSuchModel
from shardline.model import load_speech
from tests.support.sounds import RATE, rounded, write_wave

if TYPE_CHECKING:
    from pathlib import Path

TONE = 0.4 * torch.sin(torch.arange(RATE // 2) * 0.2)


@pytest.fixture
def extractor(tmp_path: Path) -> Any:
    """Of one second at most, in this test's folder."""
    made: Any = WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    made.save_pretrained(tmp_path)
    return made


@pytest.mark.parametrize(("depth", "silence"), [(1, 128), (2, 0), (4, 0)])
def test_the_features_are_those_of_the_samples(
    extractor: Any, tmp_path: Path, depth: int, silence: int
) -> None:
    features = load_speech(tmp_path, write_wave(tmp_path / "x.wav", TONE[:, None], depth))
    heard: Any = ((rounded(TONE, depth) - silence) / 2 ** (8 * depth - 1)).float().numpy()
    expected = extractor(heard, sampling_rate=RATE, return_tensors="pt").input_features
    assert features.shape == (1, 8, 100)
    assert torch.equal(features, expected)


def test_channels_are_averaged(extractor: Any, tmp_path: Path) -> None:
    both = torch.stack([TONE, torch.zeros_like(TONE)], dim=1)
    features = load_speech(tmp_path, write_wave(tmp_path / "two.wav", both, 4))
    half: Any = (TONE / 2).numpy()
    expected = extractor(half, sampling_rate=RATE, return_tensors="pt").input_features
    assert float((features - expected).abs().max()) < 1e-3


def test_a_rate_that_the_model_does_not_hear_is_refused_with_the_way_out(
    extractor: Any, tmp_path: Path
) -> None:
    del extractor
    with pytest.raises(BadInput, match=r"44100 samples a second.*hears 16000.*ffmpeg"):
        load_speech(tmp_path, write_wave(tmp_path / "cd.wav", TONE[:, None], rate=44_100))


def test_a_file_that_is_too_long_at_once_is_refused(extractor: Any, tmp_path: Path) -> None:
    del extractor
    with pytest.raises(BadInput, match=r"lasts 1\.5 s, and this model hears up to 1 s"):
        load_speech(tmp_path, write_wave(tmp_path / "long.wav", TONE.repeat(3)[:, None]))


def test_files_that_hold_no_sound_are_named(extractor: Any, tmp_path: Path) -> None:
    del extractor
    with pytest.raises(BadInput, match=r"lasts 0\.0 s"):
        load_speech(tmp_path, write_wave(tmp_path / "empty.wav", torch.zeros(0, 1)))
    with pytest.raises(BadInput, match=r"3 bytes: 1, 2 and 4 are read"):
        load_speech(tmp_path, write_wave(tmp_path / "deep.wav", TONE[:, None], 3))
    (tmp_path / "text.wav").write_text("no sound at all")
    with pytest.raises(BadInput, match=r"text\.wav cannot be read as a wave file"):
        load_speech(tmp_path, tmp_path / "text.wav")
    with pytest.raises(BadInput, match=r"missing\.wav cannot be read"):
        load_speech(tmp_path, tmp_path / "missing.wav")


def test_a_file_that_ends_early_is_heard_as_far_as_it_goes(extractor: Any, tmp_path: Path) -> None:
    whole = write_wave(tmp_path / "whole.wav", TONE[:, None]).read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: 44 + 2001])
    heard = load_speech(tmp_path, tmp_path / "cut.wav")
    expected = load_speech(tmp_path, write_wave(tmp_path / "part.wav", TONE[:1000, None]))
    assert torch.equal(heard, expected)
    del extractor


def test_a_model_that_reads_no_sound_is_named(tmp_path: Path) -> None:
    file = write_wave(tmp_path / "x.wav", TONE[:, None])
    with pytest.raises(NoSuchModel, match="nothing that reads sound"):
        load_speech(tmp_path, file)
    looks: Any = ViTImageProcessor()
    looks.save_pretrained(tmp_path)
    with pytest.raises(NoSuchModel, match=r"reads? (no )?sound"):
        load_speech(tmp_path, file)
