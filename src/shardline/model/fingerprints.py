"""Which model this is: two nodes may only share a chain when their checkpoints are the same.

The fingerprint covers the config, every safetensors file's header, 16 even samples of each file
and the middle bytes of every tensor: a fine-tune that moves only one projection of each block is
told apart without reading gigabytes. It guards against mistakes, not against a forger.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final, cast

from shardline.core.errors import CorruptWeights, NoSuchModel
from shardline.model.files import WeightFiles, header

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["config_fingerprint", "fingerprint"]

SAMPLES: Final = 16
SAMPLE_BYTES: Final = 4096
TENSOR_SAMPLE_BYTES: Final = 64
_VOLATILE: Final = {"transformers_version", "_name_or_path", "name_or_path", "_commit_hash"}


def fingerprint(model_dir: Path) -> str:
    """32 hexadecimal digits; equal for equal checkpoints wherever they lie.

    Needs all files of the checkpoint. Raises NoSuchModel or CorruptWeights.
    """
    digest = hashlib.sha256(_canonical_config(model_dir / "config.json"))
    for file in WeightFiles.of(model_dir).files():
        tensors, data_start = header(file)
        digest.update(json.dumps([file.name, tensors], sort_keys=True).encode())
        data_bytes = file.stat().st_size - data_start
        with file.open("rb") as stream:
            for offset, size in _samples(tensors, data_bytes):
                stream.seek(data_start + offset)
                digest.update(stream.read(size))
    return digest.hexdigest()[:32]


def config_fingerprint(model_dir: Path) -> str:
    """32 hexadecimal digits; equal for equal configurations, whatever the weights.

    Needs no weights. Raises NoSuchModel or CorruptWeights.
    """
    return hashlib.sha256(_canonical_config(model_dir / "config.json")).hexdigest()[:32]


def _samples(tensors: dict[str, Any], data_bytes: int) -> list[tuple[int, int]]:
    """Offsets into the data and lengths, in the order of the offsets."""
    last = max(data_bytes - SAMPLE_BYTES, 0)
    places = [(last * sample // (SAMPLES - 1), SAMPLE_BYTES) for sample in range(SAMPLES)]
    for field in tensors.values():
        start, stop = field["data_offsets"]
        places.append(((start + stop) // 2, min(TENSOR_SAMPLE_BYTES, stop - start)))
    return sorted(places)


def _canonical_config(file: Path) -> bytes:
    try:
        fields: Any = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise NoSuchModel(f"{file.parent} has no config.json") from None
    except (ValueError, RecursionError):
        raise CorruptWeights(f"{file}: no JSON") from None
    if not isinstance(fields, dict):
        raise CorruptWeights(f"{file}: no JSON object")
    kept = {k: v for k, v in cast("dict[str, Any]", fields).items() if k not in _VOLATILE}
    return json.dumps(kept, sort_keys=True).encode()
