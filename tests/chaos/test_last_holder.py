"""The last holder of a block dies while two callers write: both are told, and both go on."""

import threading
import time

import pytest

from shardline.cli.demo import shipped_model
from shardline.cli.local import local_swarm
from shardline.client import Mended, Swarm, joined
from tests.support.scenes import PROMPT, alone, greedy, parts

TOKENS = 200
SETTINGS = greedy(TOKENS)
EARLY = 10
NOTICE_S = 10.0
DEADLINE_S = 120.0


class Caller:
    """Writes in a thread of its own."""

    def __init__(self, swarm: Swarm) -> None:
        self.told: list[tuple[float, Mended | str]] = []
        self.heard = threading.Event()
        self.writes = threading.Event()
        self.seen: list[int] = []
        self.model = swarm.model_now(str(shipped_model()), tell=self.hear)
        self.thread = threading.Thread(target=self.write, daemon=True)

    def hear(self, news: Mended | str) -> None:
        self.told.append((time.monotonic(), news))
        self.heard.set()

    def write(self) -> None:
        for token in self.model.stream(PROMPT, **SETTINGS):
            self.seen.append(token)
            if len(self.seen) == EARLY:
                self.writes.set()


@pytest.mark.long
def test_two_callers_are_told_at_once_and_go_on_by_themselves() -> None:
    golden, spans = alone(SETTINGS), parts(3)
    with local_swarm(shipped_model(), spans) as local, joined(local.invite) as other:
        names = {record.span: record.name for record in local.swarm.nodes_now()}
        callers = [Caller(local.swarm), Caller(other)]
        for caller in callers:
            caller.thread.start()
        for caller in callers:
            assert caller.writes.wait(DEADLINE_S)
        local.kill(names[spans[1]])
        killed_s = time.monotonic()
        for caller in callers:
            assert caller.heard.wait(NOTICE_S), "nobody told it"
            at_s, words = caller.told[0]
            assert str(words).startswith(f"no live node holds blocks {spans[1]}")
            assert at_s - killed_s < NOTICE_S
        local.replace(names[spans[1]], "returned")
        for caller in callers:
            caller.thread.join(DEADLINE_S)
            assert caller.seen == golden
            assert isinstance(caller.told[-1][1], Mended)
