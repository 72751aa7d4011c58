"""Nodes die, freeze and leave under a running generation; the tokens are those of an unbroken run.

Real processes on loopback; which node, and after which token, comes from a seed.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from shardline.cli.demo import shipped_model
from shardline.cli.local import local_swarm
from shardline.cli.main import run
from shardline.client import Mended
from tests.support.scenes import Scene, alone, greedy, parts

TOKENS = 60
NOTICE_S = 10.0
"""Half of what a session waits for a holder before it gives up: who is told later is not told."""


@pytest.fixture(scope="module")
def golden() -> list[int]:
    return alone(greedy(TOKENS))


@pytest.fixture
def scene() -> Iterator[Scene]:
    with local_swarm(shipped_model(), parts(3) * 2) as local:
        yield Scene(local, TOKENS)


@pytest.mark.parametrize("places", [(0, 1), (1, 2), (0, 2), (0, 1, 2)])
def test_several_deaths_at_once(scene: Scene, golden: list[int], places: tuple[int, ...]) -> None:
    def kill() -> None:
        for name in [scene.name(place) for place in places]:
            scene.local.kill(name)

    assert scene.write(random.Random(sum(places)).randrange(5, 50), kill) == golden
    assert any(isinstance(news, Mended) for news in scene.told)


def test_a_node_that_is_asked_to_leave_hands_its_sessions_over(
    scene: Scene, golden: list[int]
) -> None:
    leaving: list[threading.Thread] = []

    def leave() -> None:
        name = scene.name(1)
        leaving.append(threading.Thread(target=scene.local.end, args=(name,)))
        leaving[0].start()

    assert scene.write(5, leave) == golden
    leaving[0].join()
    for news in scene.told:
        assert isinstance(news, Mended)
        assert all("is leaving" in reason for reason in news.reasons), "it was missed, not left"
    assert scene.told, "it never left"


def test_a_frozen_node_is_replaced_and_may_thaw(scene: Scene, golden: list[int]) -> None:
    frozen: list[int] = []

    def freeze() -> None:
        pid = scene.local.processes[scene.name(1)].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        frozen.append(pid)

    try:
        assert scene.write(20, freeze) == golden
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    assert scene.write() == golden, "the thawed node spoilt something"


def test_when_the_last_holder_dies_the_caller_is_told_and_goes_on_once_one_is_back(
    golden: list[int],
) -> None:
    with local_swarm(shipped_model(), parts(3)) as local:
        scene = Scene(local, TOKENS)
        helpers: list[threading.Thread] = []

        def kill_and_bring_back() -> None:
            name = scene.name(1)
            span = scene.model.chain[1].span
            scene.listen()
            local.kill(name)
            local.end(name)

            def bring_back() -> None:
                assert scene.heard.wait(NOTICE_S), "nobody told the caller"
                local.start("returned", span)

            helpers.append(threading.Thread(target=bring_back))
            helpers[0].start()

        assert scene.write(15, kill_and_bring_back) == golden
        helpers[0].join()
        assert str(scene.told[0]).startswith(f"no live node holds blocks {parts(3)[1]}")
        assert isinstance(scene.told[-1], Mended)


@pytest.mark.long
def test_six_seeded_kills_are_six_exact_texts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "chaos", "--kills", "6", "--seed", "3", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kills"] == report["token_exact"] == 6
    assert report["leaked_fds"] <= 0
    assert report["rss_growth_bytes"] < 64 * 2**20


SLOW_DOWN = """
import os, signal, sys, time
while True:
    os.kill(int(sys.argv[1]), signal.SIGSTOP)
    time.sleep(0.018)
    os.kill(int(sys.argv[1]), signal.SIGCONT)
    time.sleep(0.001)
"""


def test_a_node_that_becomes_slow_is_left_without_a_failed_step(
    scene: Scene, golden: list[int]
) -> None:
    """It is stopped for more than nine tenths of the time, in short turns."""
    brakes: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        slow = scene.local.processes[scene.name(1)]
        brakes.append(subprocess.Popen([sys.executable, "-c", SLOW_DOWN, str(slow.pid)]))

    started_s = time.monotonic()
    try:
        assert scene.write(20, start) == golden
        while not scene.told and time.monotonic() - started_s < NOTICE_S:
            assert scene.write() == golden
    finally:
        brakes[0].kill()
        brakes[0].wait()
        for process in scene.local.processes.values():
            if process.pid is not None:
                os.kill(process.pid, signal.SIGCONT)
    assert scene.told, "nobody left the slow node"
    for news in scene.told:
        assert isinstance(news, Mended)
        assert "became slow" in news.reasons[0]
