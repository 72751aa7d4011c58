"""Quantised weights on disk, each under the hash of what it was made of.

A weight's file holds what its kind's `quantise` gave, with a digest of it. A file that is not what
was written is made anew. Nothing is ever dropped from the folder: a person may empty it.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors_torch

from shardline.core.errors import CorruptWeights
from shardline.model.files import header
from shardline.model.weights import EXACT

if TYPE_CHECKING:
    from shardline.model.weights import Kind, Product

__all__ = ["product_of"]

FORMAT: Final = "1"
"""Goes up when a kind writes other tensors than before."""
_files: Any = safetensors_torch
_log = logging.getLogger(__name__)


def product_of(weight: torch.Tensor, kind: Kind, folder: Path | None) -> Product:
    """The weight as this kind holds it, from its file or to it; None keeps no files.

    Without a file that can be written, what a kind would leave on disk (EXACT) is done without.
    """
    file = None if folder is None else folder / f"{_name(weight, kind)}.safetensors"
    if file is not None:
        try:
            return kind.ready(_read(file))
        except FileNotFoundError:
            pass
        except (CorruptWeights, SafetensorError, OSError, ValueError, KeyError) as error:
            _log.warning("%s is made anew: %s", file, error)
    made = kind.quantise(weight.detach())
    if file is not None and _write(file, made):
        return kind.ready(_read(file))
    made.pop(EXACT, None)
    return kind.ready(made)


def _name(weight: torch.Tensor, kind: Kind) -> str:
    about = f"{FORMAT} {kind.word} {weight.dtype} {tuple(weight.shape)}"
    digest = hashlib.sha256(about.encode())
    digest.update(_bytes(weight))
    return digest.hexdigest()[:32]


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    """Of all that memory will hold; EXACT would have to be read for it."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if name != EXACT:
            digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
            digest.update(_bytes(tensors[name]))
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
    return memoryview(cast("Any", flat.numpy()))


def _read(file: Path) -> dict[str, torch.Tensor]:
    """The tensors, memory-mapped; raises what a file that is not ours, or not whole, raises."""
    if not file.is_file():
        raise FileNotFoundError(file)
    header(file)
    opened: Any = safe_open(file, framework="pt")
    tensors: dict[str, torch.Tensor] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    about: dict[str, str] | None = opened.metadata()
    if (about or {}).get("digest") != _digest(tensors):
        raise CorruptWeights("its bytes are not those that were written")
    return tensors


def _write(file: Path, tensors: dict[str, torch.Tensor]) -> bool:
    """Whole or not at all; a folder that cannot be written is a warning only."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".weight.") as scratch:
            _files.save_file(tensors, Path(scratch) / file.name, {"digest": _digest(tensors)})
            (Path(scratch) / file.name).replace(file)
    except (OSError, SafetensorError) as error:
        _log.warning("quantised weights cannot be kept in %s: %s", file.parent, error)
        return False
    return True
