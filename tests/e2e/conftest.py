"""A tiny model that reads and writes text, a swarm that serves it, and a person at a terminal.

Then, for the tests of hostile members: Mallory's stage, and the honest caller who comes after her.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from anyio.from_thread import start_blocking_portal
from transformers import AutoModelForCausalLM

from shardline.cli.main import run
from shardline.core.spans import Span
from shardline.model import Crossing, Returned, load_ends, trace
from shardline.runtime import SpanEngine
from shardline.swarm import State
from tests.e2e.mallory import DEADLINE_S, Mallory, mallory_of
from tests.parity.zoo import make, named
from tests.support.characters import save_characters
from tests.support.swarms import nodes_here

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Sequence
    from pathlib import Path

    from shardline.client import Swarm
    from shardline.core.ids import Seat
    from shardline.swarm import NodeRecord

COMMAND_S = 90.0
"""No command of these tests may take longer, imports on a busy machine included."""
SPANS = [Span(0, 1), Span(1, 4)]


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
    save_characters(directory)
    return directory


@pytest.fixture(scope="module")
def swarm(tiny: Path) -> Generator[Swarm]:
    """Two real nodes that serve the tiny model, with real sealed channels, in this process."""
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


# --- MALLORY AND WHO COMES AFTER HER ---

PROMPT = torch.tensor([[5, 9, 2, 7]])
GREEDY: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False}


@pytest.fixture(scope="module")
def expected(tiny: Path) -> list[int]:
    """What one process writes."""
    whole = cast("Any", AutoModelForCausalLM).from_pretrained(tiny, dtype=torch.float32)
    return whole.generate(PROMPT, **GREEDY)[0].tolist()


@pytest.fixture(scope="module")
def crossing(tiny: Path) -> Crossing:
    """What an honest caller sends to block 0 for a prompt of four tokens."""
    kept: list[Crossing] = []

    class Enough(Exception):
        pass

    def run(_: object, crossing: Crossing) -> Returned:
        kept.append(crossing)
        raise Enough

    ends: Any = load_ends(trace(tiny), run, dtype=torch.float32, device=torch.device("cpu"))
    with contextlib.suppress(Enough), torch.no_grad():
        ends(input_ids=PROMPT, use_cache=True)
    return kept[0]


@pytest.fixture
def nodes(swarm: Swarm) -> list[NodeRecord]:
    return [record for record in swarm.nodes_now() if record.state is State.READY]


@dataclass(frozen=True)
class Honest:
    """A caller who comes afterwards, and gets what one process writes."""

    swarm: Swarm
    model: Path
    expected: list[int]

    def writes(self) -> list[int]:
        return self.swarm.model_now(str(self.model)).generate(PROMPT, **GREEDY)[0].tolist()

    def __call__(self) -> None:
        assert self.writes() == self.expected


@pytest.fixture
def honest(swarm: Swarm, tiny: Path, expected: list[int]) -> Honest:
    return Honest(swarm, tiny, expected)


@pytest.fixture
def play(
    swarm: Swarm,
    nodes: list[NodeRecord],
    honest: Honest,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., list[str]]:
    """Let Mallory play a trick; then an honest caller is served. Gives what was logged.

    What callers leave behind who vanish is cleared at the node's next heartbeat.
    """
    monkeypatch.setattr("shardline.node.worker.ORPHAN_S", 0.0)

    def run(trick: Callable[[Mallory], Coroutine[Any, Any, None]]) -> list[str]:
        async def scene() -> None:
            async with mallory_of(swarm, nodes) as mallory:
                await trick(mallory)

        with start_blocking_portal("asyncio", name="mallory") as portal:
            portal.call(scene)
        honest()
        assert all(record.levelno < logging.ERROR for record in caplog.records)
        assert all(record.exc_info is None for record in caplog.records)
        return [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]

    return run


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Generator[Callable[[], None]]:
    """Every engine's steps wait until the gate is opened."""
    is_open = threading.Event()
    steps = SpanEngine.steps

    def wait(
        engine: SpanEngine, asked: Sequence[tuple[Seat, Crossing]], *, now_s: float
    ) -> list[Any]:
        assert is_open.wait(DEADLINE_S)
        return steps(engine, asked, now_s=now_s)

    monkeypatch.setattr(SpanEngine, "steps", wait)
    yield is_open.set
    is_open.set()
