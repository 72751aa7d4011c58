"""What a model that sees is given: pictures, by way of its own image processor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from shardline.core.errors import BadInput, NoSuchModel, Unsupported
from shardline.model.library import quiet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["load_pictures"]


def load_pictures(model_dir: Path, files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Inputs for these pictures, as the processor in the model's directory makes them.

    Raises Unsupported without Pillow (the extra `vision`), NoSuchModel without a processor, and
    BadInput, naming the file, for one that is no picture.
    """
    try:
        from PIL import Image  # noqa: PLC0415  an extra
    except ImportError:
        raise Unsupported(
            "pictures are read by Pillow: install it with `pip install 'shardline[vision]'`"
        ) from None
    processor = _processor(model_dir)
    pictures: list[Any] = []
    for file in files:
        try:
            with Image.open(file) as picture:
                pictures.append(picture.convert("RGB"))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise BadInput(f"{file} cannot be read as a picture: {error}") from None
    with quiet():
        made = processor(images=pictures, return_tensors="pt")
    return {name: value for name, value in made.items() if isinstance(value, torch.Tensor)}


def _processor(model_dir: Path) -> Any:  # noqa: ANN401 - Transformers' own has no types
    from transformers import AutoImageProcessor  # noqa: PLC0415  it looks for Pillow

    with quiet():
        try:
            found: Any = cast("Any", AutoImageProcessor).from_pretrained(
                model_dir, local_files_only=True, trust_remote_code=False, backend="pil"
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = " ".join(str(error).split())[:200]
            raise NoSuchModel(f"{model_dir} has nothing that reads pictures: {reason}") from None
    return found
