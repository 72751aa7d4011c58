"""A long prompt, a second node kept warm for each span, and deaths: nothing is computed again.

Real processes on loopback.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import torch

from shardline.cli.demo import shipped_model
from shardline.cli.local import LocalSwarm, local_swarm
from shardline.client import Mended
from tests.support.scenes import alone, greedy, parts

TOKENS = 60
PROMPT_IDS = [[(37 * place) % 1_000 + 5 for place in range(200)]]
PROMPT = torch.tensor(PROMPT_IDS)
SETTINGS = greedy(TOKENS)
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def golden() -> list[int]:
    return alone(SETTINGS, PROMPT)


@pytest.fixture
def local() -> Iterator[LocalSwarm]:
    with local_swarm(shipped_model(), parts(2) * 2) as swarm:
        yield swarm


class Scene:
    """A caller who keeps standbys, and what was told."""

    def __init__(self, local: LocalSwarm) -> None:
        self.local = local
        self.told: list[Mended | str] = []
        swarm = local.swarm
        self.model = swarm.model_now(str(shipped_model()), standby=1, tell=self.told.append)
        self.model.generate(PROMPT, max_new_tokens=2)  # the links to all are dialled

    def process(self, place: int, *, standby: bool = False) -> tuple[str, int]:
        """The name and pid of who holds this place of the chain, or stands by for it."""
        names = {record.node: record.name for record in self.local.swarm.nodes_now()}
        hops = self.model.standbys if standby else self.model.chain
        name = names[hops[place].node]
        pid = self.local.processes[name].pid
        assert pid is not None
        return name, pid


@pytest.mark.parametrize("place", [0, 1])
def test_a_standby_takes_over_and_the_tokens_stay(
    local: LocalSwarm, golden: list[int], place: int
) -> None:
    scene = Scene(local)
    seen: list[int] = []
    killed = 0
    for token in scene.model.stream(PROMPT, **SETTINGS):
        seen.append(token)
        if not killed and len(scene.model.standbys) == 2 and len(seen) > 9:
            local.kill(scene.process(place)[0])
            killed = len(seen)
    assert killed
    assert seen == golden
    (news,) = [news for news in scene.told if isinstance(news, Mended)]
    assert news.standby


def test_a_frozen_standby_holds_up_nobody(local: LocalSwarm, golden: list[int]) -> None:
    scene = Scene(local)
    seen: list[int] = []
    frozen: list[int] = []
    try:
        for token in scene.model.stream(PROMPT, **SETTINGS):
            seen.append(token)
            if not frozen and len(scene.model.standbys) == 2:
                frozen.append(scene.process(1, standby=True)[1])
                os.kill(frozen[0], signal.SIGSTOP)
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    assert frozen
    assert seen == golden
    assert not [news for news in scene.told if isinstance(news, Mended)]


STREAM = """
import json, os, signal, sys, torch
from shardline.client import joined
torch.set_num_threads(1)
invite, model, prompt, settings = sys.argv[1:]
with joined(invite) as swarm:
    spread = swarm.model_now(model)
    stream = spread.stream(torch.tensor(json.loads(prompt)), **json.loads(settings))
    for count, token in enumerate(stream):
        print(token, flush=True)
        if count == 30:
            os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.mark.long
def test_a_caller_that_sleeps_for_less_than_the_lease_goes_on(
    local: LocalSwarm, golden: list[int]
) -> None:
    told_what = [local.invite, str(shipped_model()), json.dumps(PROMPT_IDS)]
    caller = subprocess.Popen(
        [sys.executable, "-c", STREAM, *told_what, json.dumps(SETTINGS)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        _, status = os.waitpid(caller.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), "it ended before it slept"
        time.sleep(5.0)  # it is the sleep that is tested
        caller.send_signal(signal.SIGCONT)
        out, _ = caller.communicate(timeout=DEADLINE_S)
        assert [int(token) for token in out.splitlines()] == golden
    finally:
        caller.kill()
        caller.wait()
