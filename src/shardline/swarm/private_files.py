"""Small files that only their owner may read: keys and invites."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from shardline.core.errors import BadInput

__all__ = ["read_private", "write_private"]

_OTHERS = 0o077
_HAS_MODES = os.name == "posix"


def read_private(path: Path, bytes_max: int) -> bytes:
    """The file's bytes; raises FileNotFoundError, and BadInput if it is not private or too long."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(bytes_max + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    if _HAS_MODES and mode & _OTHERS:
        raise BadInput(f"{path} can be read by others: run chmod 600 {path}")
    if len(data) > bytes_max:
        raise BadInput(f"{path} is longer than {bytes_max} bytes: it is not a file of shardline's")
    return data


def write_private(path: Path, data: bytes, *, replace: bool) -> None:
    """Write the whole file or nothing, readable by its owner alone; makes its directory, 0700.

    Raises FileExistsError if it is there and not to be replaced; BadInput if it cannot be written.
    """
    scratch: Path | None = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        scratch = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            scratch.replace(path)
        else:
            path.hardlink_to(scratch)
    except FileExistsError:
        if path.parent.is_dir():
            raise
        raise BadInput(f"{path.parent} is not a directory") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}") from None
    finally:
        if scratch is not None:
            scratch.unlink(missing_ok=True)
