"""From what a person writes as MODEL to a directory with a config and safetensors files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from shardline.core.errors import NoSuchModel

__all__ = ["resolve"]

_WANTED: Final = ["*.json", "*.safetensors", "tokenizer*", "*.txt", "*.model", "*.jinja"]
_NEVER: Final = ["*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.h5", "*.msgpack"]


def resolve(model: str) -> Path:
    """The directory that holds this model: a path, or a hub id that is downloaded (or cached).

    Never fetches pickles. Raises NoSuchModel when there is neither, also when offline.
    """
    directory = Path(model).expanduser()
    if directory.is_dir():
        if not (directory / "config.json").is_file():
            raise NoSuchModel(f"{model} is a directory without a config.json")
        return directory
    if directory.exists():
        raise NoSuchModel(f"{model} is a file: give the directory that holds its config.json")
    return _from_hub(model)


def _from_hub(model: str) -> Path:
    import huggingface_hub as hub  # noqa: PLC0415  a directory needs no hub
    from huggingface_hub.errors import (  # noqa: PLC0415
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    typeless: Any = hub
    absent = f"no directory {model!r}"
    try:
        found = str(
            typeless.snapshot_download(model, allow_patterns=_WANTED, ignore_patterns=_NEVER)
        )
    except HFValidationError:
        raise NoSuchModel(f"{absent}, and it is no hub id (owner/name)") from None
    except LocalEntryNotFoundError:
        raise NoSuchModel(f"{absent}, and the hub cannot be reached to look there") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise NoSuchModel(f"{absent}, and the hub answers {status} for that id") from None
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise NoSuchModel(f"{absent}, and the hub gave nothing: {reason}") from None
    if not (Path(found) / "config.json").is_file():
        raise NoSuchModel(f"{model} on the hub has no config.json")
    return Path(found)
