"""Stages and signatures in folders: JSON and safetensors, nothing that could run.

What a folder holds may be a stranger's: sizes are bounded before anything is read, names and types
are checked while it is read, and ops that are not on our list are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors_torch

from shardline.core.errors import BadInput, CorruptWeights, NoSuchModel
from shardline.model.files import header
from shardline.model.graph.program import Program  # noqa: TC001 - read at run time
from shardline.model.graph.signature import Signature  # noqa: TC001 - as above
from shardline.model.graph.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from shardline.model.graph.capturing import Graph

__all__ = [
    "PROGRAM",
    "SIGNATURE",
    "TENSORS",
    "VERSION",
    "load_signature",
    "load_stage",
    "read_file",
    "save_signature",
    "save_stage",
]

PROGRAM: Final = "stage.json"
TENSORS: Final = "stage.safetensors"
SIGNATURE: Final = "signature.json"
JSON_BYTES_MAX: Final = 64 * 2**20
"""A network of 200,000 ops takes 40 MB."""
VERSION: Final = 1
_files: Any = safetensors_torch
_Kind = TypeVar("_Kind")


class _StageFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    program: Program
    trained: list[str]
    """Tensors that ask for gradients: torch picks matrix kernels by it."""


class _SignatureFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    signature: Signature


def save_stage(graph: Graph, program: Program, folder: Path) -> None:
    """Write one stage of the graph; tensors that several stages read are written for each.

    Raises BadInput if the module's tensors are on the meta device, and so have no values.
    """
    held = {name: graph.tensors[name].detach() for name in program.held()}
    without = [name for name, tensor in held.items() if tensor.device.type == "meta"]
    if without:
        raise BadInput(f"{graph.signature.name} has no weights: {without[0]} is on the meta device")
    trained = [name for name in held if graph.tensors[name].requires_grad]
    folder.mkdir(parents=True, exist_ok=True)
    # Cloned, as the format refuses tensors that share memory.
    apart = {name: tensor.cpu().contiguous().clone() for name, tensor in held.items()}
    _files.save_file(apart, folder / TENSORS)
    (folder / PROGRAM).write_bytes(msgspec.json.encode(_StageFile(VERSION, program, trained)))


def load_stage(folder: Path, device: torch.device | None = None) -> Stage:
    """A stage that is ready to run; needs none of the model's Python code and executes nothing.

    Raises NoSuchModel, CorruptWeights, or Unsupported for an op that no stage may use.
    """
    held = read_file(folder / PROGRAM, _StageFile)
    tensors = _tensors(folder / TENSORS, held.program)
    for name in held.trained:
        if name in tensors and tensors[name].is_floating_point():
            tensors[name].requires_grad_()
    return Stage.of(held.program, tensors, device or torch.device("cpu"))


def save_signature(signature: Signature, folder: Path) -> None:
    """Write how the whole is called."""
    folder.mkdir(parents=True, exist_ok=True)
    data = msgspec.json.encode(_SignatureFile(VERSION, signature))
    (folder / SIGNATURE).write_bytes(data)


def load_signature(folder: Path) -> Signature:
    """What `save_signature` wrote; raises NoSuchModel or CorruptWeights."""
    signature = read_file(folder / SIGNATURE, _SignatureFile).signature
    signature.check()
    return signature


def read_file(file: Path, kind: type[_Kind]) -> _Kind:
    """A page of JSON of this kind, with its `version`; raises NoSuchModel or CorruptWeights."""
    try:
        with file.open("rb") as stream:
            data = stream.read(JSON_BYTES_MAX + 1)
    except FileNotFoundError:
        raise NoSuchModel(f"{file.parent} has no {file.name}") from None
    if len(data) > JSON_BYTES_MAX:
        raise CorruptWeights(f"{file}: more than {JSON_BYTES_MAX} bytes")
    try:
        found = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptWeights(f"{file}: {error}") from None
    version: int = getattr(found, "version", 0)
    if version != VERSION:
        raise CorruptWeights(f"{file}: format {version}, and this version reads {VERSION}")
    return found


def _tensors(file: Path, program: Program) -> Mapping[str, torch.Tensor]:
    """Those that the program reads."""
    there, _ = header(file)
    missing = [name for name in program.held() if name not in there]
    if missing:
        raise CorruptWeights(f"{file}: tensor {missing[0]} is missing")
    try:
        opened: Any = safe_open(file, framework="pt")
        return {name: opened.get_tensor(name) for name in program.held()}
    except (SafetensorError, OSError) as error:
        raise CorruptWeights(f"{file}: {error}") from None
