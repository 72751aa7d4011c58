"""Cores as a person names them, and a process that is bound to some."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.cli import cores
from shardline.cli.cores import cores_of, pin
from shardline.core.errors import BadInput

needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores"
)


@pytest.fixture(autouse=True)
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process may use all of eight cores but the fifth."""
    monkeypatch.setattr(cores, "free_cores", lambda: (0, 1, 2, 3, 5, 6, 7))


@pytest.mark.parametrize(
    ("text", "named"),
    [("0", (0,)), ("0-3", (0, 1, 2, 3)), ("0,2", (0, 2)), ("6-7,0-1,1", (0, 1, 6, 7))],
)
def test_cores_are_numbers_and_ranges(text: str, named: tuple[int, ...]) -> None:
    assert cores_of(text) == named


@pytest.mark.parametrize("text", ["", "a", "0-", "-1", "0;1", "0,,1", "1-2-3", "0" * 5, "0," * 65])
def test_what_names_no_cores_is_bad_input(text: str) -> None:
    with pytest.raises(BadInput, match="names no cores: write 0-3, or 0,2"):
        cores_of(text)


@pytest.mark.parametrize(("text", "what"), [("8", "core 8"), ("3-5", "core 4"), ("3-1", "'3-1'")])
def test_cores_that_are_not_there_are_bad_input(text: str, what: str) -> None:
    with pytest.raises(BadInput, match=f"{what} is not there: this process may use 0-3,5-7"):
        cores_of(text)


@given(st.sets(st.sampled_from((0, 1, 2, 3, 5, 6, 7)), min_size=1))
def test_any_cores_can_be_named_one_by_one(named: set[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cores, "free_cores", lambda: (0, 1, 2, 3, 5, 6, 7))
        assert cores_of(",".join(map(str, named))) == tuple(sorted(named))


def test_a_system_that_binds_nobody_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pytest.raises(BadInput, match="does not let a program choose its cores"):
        cores_of("0")


@needs_affinity
def test_cores_that_cannot_be_had_are_bad_input() -> None:
    with pytest.raises(BadInput, match="cores 4000 cannot be had"):
        pin((4000,))


@needs_affinity
def test_a_bound_process_and_its_later_threads_stay_on_their_cores_with_torch_too() -> None:
    script = (
        "import os, threading\n"
        "from shardline.cli.cores import free_cores, pin\n"
        "own = free_cores()[:1]\n"
        "pin(own)\n"
        "import torch\n"
        "seen = []\n"
        "thread = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))\n"
        "thread.start(); thread.join()\n"
        "assert seen == [set(own)] and free_cores() == own\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=90, capture_output=True)
