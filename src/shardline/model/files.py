"""A checkpoint's safetensors files: which tensor is where, and what is wrong with a broken one.

Only headers are read here; a tensor's bytes are memory-mapped and read when a span asks for them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from safetensors import SafetensorError, safe_open

from shardline.core.errors import CorruptWeights, NoSuchModel

__all__ = ["WeightFiles", "header"]

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
HEADER_BYTES_MAX: Final = 100 * 2**20
"""The format's own limit."""
PREFIX_BYTES: Final = 8
"""The header's length, little-endian."""


def header(file: Path) -> tuple[dict[str, Any], int]:
    """A safetensors file's header and where its data starts, in bytes.

    Raises CorruptWeights, naming the file and what is wrong, unless the file is whole.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(PREFIX_BYTES), "little")
            if length > HEADER_BYTES_MAX or PREFIX_BYTES + length > size:
                raise CorruptWeights(f"{file}: no safetensors header ({size} bytes in the file)")
            fields: Any = json.loads(stream.read(length))
    except FileNotFoundError:
        raise CorruptWeights(f"{file}: the file is missing") from None
    except (ValueError, RecursionError):
        raise CorruptWeights(f"{file}: its header is damaged (no JSON)") from None
    try:
        tensors = {key: field for key, field in fields.items() if key != "__metadata__"}
        end = max((_end(*field["data_offsets"]) for field in tensors.values()), default=0)
        missing = PREFIX_BYTES + length + end - size
    except (AttributeError, LookupError, TypeError):
        raise CorruptWeights(f"{file}: its header is damaged (no table of tensors)") from None
    if missing > 0:
        raise CorruptWeights(f"{file}: truncated, the last {missing} bytes are missing")
    return cast("dict[str, Any]", tensors), PREFIX_BYTES + length


def _end(start: object, stop: object) -> int:
    """Where a tensor's bytes end; raises TypeError if these are no offsets."""
    if type(start) is int and type(stop) is int and 0 <= start <= stop:
        return stop
    raise TypeError(f"{start!r} to {stop!r}")


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """Tensor names of a checkpoint, each with the file that holds it."""

    directory: Path
    places: dict[str, Path]

    @classmethod
    def of(cls, directory: Path) -> WeightFiles:
        """Read the index, or the single file's header; raises NoSuchModel or CorruptWeights."""
        if (directory / INDEX).is_file():
            return cls(directory, _indexed(directory / INDEX))
        if (directory / SINGLE).is_file():
            tensors, _ = header(directory / SINGLE)
            return cls(directory, dict.fromkeys(tensors, directory / SINGLE))
        hint = " (pickle checkpoints are not loaded)" if any(directory.glob("*.bin")) else ""
        raise NoSuchModel(f"{directory} holds neither {SINGLE} nor {INDEX}{hint}")

    def files(self) -> list[Path]:
        """All files, sorted by name."""
        return sorted(set(self.places.values()))

    def open(self, names: list[str]) -> dict[str, Any]:
        """Lazy slices of these tensors: `slice[...]` reads one; other files are not touched."""
        slices: dict[str, Any] = {}
        for file in sorted({self.places[name] for name in names}):
            held, _ = header(file)
            wanted = [name for name in names if self.places[name] == file]
            absent = [name for name in wanted if name not in held]
            if absent:
                raise CorruptWeights(f"{file}: tensor {absent[0]} is missing")
            try:
                opened: Any = safe_open(file, framework="pt")
                slices |= {name: opened.get_slice(name) for name in wanted}
            except (SafetensorError, OSError) as error:
                raise CorruptWeights(f"{file}: {error}") from None
        return slices


def _indexed(index: Path) -> dict[str, Path]:
    try:
        weight_map: Any = json.loads(index.read_bytes())["weight_map"]
        places = {str(name): str(file) for name, file in weight_map.items()}
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        raise CorruptWeights(f"{index}: no index of tensors") from None
    for file in set(places.values()):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise CorruptWeights(f"{index}: names {file!r}, which is no safetensors file beside it")
    return {name: index.parent / file for name, file in places.items()}
