"""A tiny model that reads and writes text, a swarm that serves it, and a person at a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from shardline.cli.main import run
from shardline.core.spans import Span
from tests.parity.zoo import make, named
from tests.support.swarms import nodes_here

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from shardline.client import Swarm

COMMAND_S = 90.0
"""No command of these tests may take longer, imports on a busy machine included."""
SPANS = [Span(0, 1), Span(1, 4)]
CHARACTERS = [chr(code) for code in range(32, 128)]


@dataclass(frozen=True)
class Ended:
    """What a person saw of a command."""

    code: int
    out: str
    err: str

    def one_line(self, code: int, *words: str) -> None:
        """It ended with this code and one calm line that holds these words."""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("shardline: ")
        assert "Traceback" not in self.err
        assert self.code == code, self.err
        assert self.out == ""
        for word in words:
            assert word in self.err, self.err


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 4 blocks and 128 positions; each printable character is a token."""
    directory = tmp_path_factory.mktemp("tiny")
    make(named("llama"), directory)
    words = Tokenizer(models.BPE({sign: code for code, sign in enumerate(CHARACTERS)}, []))
    words.decoder = cast("Any", decoders).Fuse()
    typeless: Any = PreTrainedTokenizerFast(tokenizer_object=words)
    typeless.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def swarm(tiny: Path) -> Generator[Swarm]:
    """Two real nodes that serve the tiny model, with real sealed channels, in this process."""
    torch.set_num_threads(1)
    with nodes_here(tiny, SPANS) as served:
        yield served


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This test's own $SHARDLINE_HOME, still missing."""
    monkeypatch.setenv("SHARDLINE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SHARDLINE_INVITE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "home"


@pytest.fixture
def shardline(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """One command line in this process: quick, because torch is here already."""
    del home

    def command(*arguments: object) -> Ended:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        seen = capsys.readouterr()
        return Ended(code, seen.out, seen.err)

    return command


@pytest.fixture
def shardline_process(home: Path) -> Callable[..., Ended]:
    """One command line as a process of its own, as a person runs it."""
    del home

    def command(*arguments: object, timeout_s: float = COMMAND_S) -> Ended:
        done = subprocess.run(
            [sys.executable, "-m", "shardline.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return command
