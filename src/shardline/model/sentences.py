"""From the states of a text's tokens to one vector, as the folder of a sentence model says.

Such folders (of sentence-transformers) list their parts in `modules.json`: the network, how its
tokens are pooled, and whether the vector is given length 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import torch
from torch.nn import functional

from shardline.core.errors import CorruptWeights, Unsupported

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["POOLINGS", "Pooling", "read_pooling"]

POOLINGS: Final = ("mean", "cls", "max")
JSON_BYTES_MAX: Final = 2**20
PART_MAX: Final = 100


class _Part(msgspec.Struct, frozen=True):
    type: str
    path: str = ""


class _Flags(msgspec.Struct, frozen=True):
    pooling_mode: str | None = None
    pooling_mode_cls_token: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False

    def chosen(self) -> list[str]:
        """All that are asked for."""
        if self.pooling_mode is not None:
            return [self.pooling_mode]
        names = [name for name in self.__struct_fields__ if getattr(self, name) is True]
        plain = (name.removeprefix("pooling_mode_").removesuffix("_tokens") for name in names)
        return [name.removesuffix("_token") for name in plain]


class _Lengths(msgspec.Struct, frozen=True):
    max_seq_length: int | None = None


@dataclass(frozen=True, slots=True)
class Pooling:
    """How token states become one vector."""

    kind: str = POOLINGS[0]
    """One of `POOLINGS`: `cls` is the first token's state."""
    unit: bool = False
    """Whether it is given length 1."""
    tokens: int | None = None
    """The most tokens of a text that are read, where the folder says."""

    def __call__(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Vectors (texts, width), of states (texts, tokens, width) and the mask (texts, tokens)."""
        weights = mask.to(states.dtype)[..., None]
        if self.kind == "cls":
            found = states[:, 0]
        elif self.kind == "max":
            found = states.masked_fill(weights == 0, -torch.inf).amax(1)
        else:
            found = (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return functional.normalize(found, dim=-1) if self.unit else found


def read_pooling(folder: Path, kind: str | None = None) -> Pooling:
    """What the folder says, or the mean of all tokens if it says nothing; `kind` overrules it.

    Raises Unsupported for parts and poolings that are not built, CorruptWeights for no JSON.
    """
    lengths = _read(folder / "sentence_bert_config.json", _Lengths) or _Lengths()
    parts = _read(folder / "modules.json", list[_Part])
    found, unit = POOLINGS[0], False
    for part in parts or ():
        name = part.type.rpartition(".")[2]
        if name == "Normalize":
            unit = True
        elif name == "Pooling":
            found = _pooled(folder / part.path / "config.json")
        elif name != "Transformer":
            raise Unsupported(
                f"{folder} has a part {name[:PART_MAX]} behind its network, which is not built"
            )
    return Pooling(kind or found, unit, lengths.max_seq_length)


def _pooled(file: Path) -> str:
    flags = _read(file, _Flags) or _Flags(pooling_mode_mean_tokens=True)
    chosen = flags.chosen()
    if len(chosen) != 1 or chosen[0] not in POOLINGS:
        what = " and ".join(chosen)[:PART_MAX] or "nothing"
        raise Unsupported(f"{file} pools by {what}: {', '.join(POOLINGS)} are built, one of them")
    return chosen[0]


def _read(file: Path, kind: Any) -> Any:  # noqa: ANN401 - what this type says
    """The file's content, or None if there is none."""
    if not file.is_file():
        return None
    try:
        with file.open("rb") as stream:
            return msgspec.json.decode(stream.read(JSON_BYTES_MAX), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
        raise CorruptWeights(f"{file}: {error}") from None
