"""Models of a known shape with made-up weights, written once, for measurements without downloads.

What a step costs does not depend on what the weights are, but for mixtures of experts. Weights are
normal with a deviation of 0.02 and norms are ones, as Transformers begins training with; a tensor's
name seeds it, so every machine writes the same files.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from shardline.cli.demo import shipped_model
from shardline.core.errors import BadInput
from shardline.core.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

__all__ = ["SHAPES", "SHIPPED", "shaped_model"]

SHIPPED: Final = "shipped"
DTYPE_BYTES: Final = 2
FILE_BYTES: Final = 2**29
SPARE_BYTES: Final = 2**28
"""What the disk keeps free beside the files."""
DEVIATION: Final = 0.02

_LLAMAS: Final[dict[str, dict[str, Any]]] = {
    "tinyllama-1.1b": {
        "vocab_size": 32_000,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
    },
    "llama-3-8b": {
        "vocab_size": 128_256,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}
POSITIONS: Final = 8192
"""Of both: TinyLlama itself has 2,048, too few for the longest prompt. It changes no weight."""

SHAPES: Final = (SHIPPED, *_LLAMAS)


def shaped_model(shape: str, folder: Path, tell: Callable[[str], None]) -> Path:
    """The directory of a model of this shape, one of SHAPES; the first time it is written.

    `tell` hears how large it will be before that. Raises BadInput if the disk has no room.
    """
    if shape == SHIPPED:
        return shipped_model()
    place = folder / shape
    if (place / "config.json").is_file():
        return place

    from transformers import LlamaConfig

    config = LlamaConfig(**_LLAMAS[shape], max_position_embeddings=POSITIONS, dtype="bfloat16")
    _write(config, place, tell)
    return place


def _write(config: Any, place: Path, tell: Callable[[str], None]) -> None:  # noqa: ANN401
    """All files of a model, under their own name only once all are there."""
    shapes = _tensors(config)
    size_bytes = sum(DTYPE_BYTES * shape.numel() for shape in shapes.values())
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(place.parent).free
        if size_bytes + SPARE_BYTES > free_bytes:
            asked, free = format_bytes(size_bytes), format_bytes(free_bytes)
            raise BadInput(f"{place.name} takes {asked} in {place.parent}, and {free} are free")
        tell(f"writing {format_bytes(size_bytes)} of made-up weights to {place}, this once")
        with tempfile.TemporaryDirectory(prefix=f"{place.name}-", dir=place.parent) as scratch:
            made = Path(scratch) / place.name
            made.mkdir()
            _write_weights(shapes, made)
            config.architectures = ["LlamaForCausalLM"]
            config.save_pretrained(made)
            made.rename(place)
    except OSError as error:
        raise BadInput(f"{place} cannot be written: {error.strerror or error}") from None


def _tensors(config: Any) -> dict[str, torch.Size]:  # noqa: ANN401
    """Name and shape of every tensor; nothing is built."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = cast("Any", AutoModelForCausalLM).from_config(config)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _write_weights(shapes: dict[str, torch.Size], folder: Path) -> None:
    """One file after the other, so that no more than one is in memory."""
    from safetensors import torch as safetensors

    files = list(_files(shapes))
    places: dict[str, str] = {}
    for number, names in enumerate(files, start=1):
        file = f"model-{number:05}-of-{len(files):05}.safetensors"
        cast("Any", safetensors).save_file(
            {name: _tensor(name, shapes[name]) for name in names},
            folder / file,
            metadata={"format": "pt"},
        )
        places |= dict.fromkeys(names, file)
    total = sum(DTYPE_BYTES * shape.numel() for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def _files(shapes: dict[str, torch.Size]) -> Iterator[list[str]]:
    """Names of the tensors of each file, of at most FILE_BYTES unless one alone is larger."""
    names: list[str] = []
    filled = 0
    for name, shape in shapes.items():
        size = DTYPE_BYTES * shape.numel()
        if names and filled + size > FILE_BYTES:
            yield names
            names, filled = [], 0
        names.append(name)
        filled += size
    yield names


def _tensor(name: str, shape: torch.Size) -> torch.Tensor:
    import torch

    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    luck = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0.0, DEVIATION, generator=luck)
