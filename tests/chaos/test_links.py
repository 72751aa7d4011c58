"""Links are cut, slowed and spoilt, and caches filled, under a running generation; the text stays.

Real processes, each in a network of its own, whose cable a process of ours holds.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shardline.cli.chaos import FAULTS, Field, glutton
from shardline.cli.demo import shipped_model
from shardline.cli.local import LocalSwarm, local_swarm
from shardline.client import Mended
from shardline.core.errors import CacheFull, ShardlineError, Unsupported
from shardline.core.spans import Span
from tests.support.scenes import Scene, alone, greedy, parts

TOKENS = 40
NOTICE_S = 10.0
LINKS_S = 60.0
POLL_S = 0.05
ESTABLISHED = "01"
"""As /proc says it."""


@pytest.fixture(scope="module")
def golden() -> list[int]:
    return alone(greedy(TOKENS))


class Cabled(Scene):
    """A swarm whose links can be broken."""

    def __init__(self, local: LocalSwarm) -> None:
        super().__init__(local, TOKENS)
        self.field = Field(local)


def swarm_of(spans: list[Span]) -> Iterator[Cabled]:
    with ExitStack() as stack:
        try:
            local = stack.enter_context(local_swarm(shipped_model(), spans, cabled=True))
        except Unsupported as error:
            pytest.skip(str(error))
        yield Cabled(local)


@pytest.fixture(scope="module")
def pairs() -> Iterator[Cabled]:
    """Two nodes for each third."""
    yield from swarm_of(parts(3) * 2)


@pytest.fixture(scope="module")
def lone() -> Iterator[Cabled]:
    """One node for each third."""
    yield from swarm_of(parts(3))


@pytest.mark.parametrize("fault", ["slow", "cut", "freeze"])
def test_the_text_goes_on_and_others_can_begin_meanwhile(
    pairs: Cabled, golden: list[int], fault: str
) -> None:
    heals: list[Callable[[], None]] = []
    try:
        strike = FAULTS[fault].strike
        assert pairs.write(12, lambda: heals.append(strike(pairs.field, pairs.name(1)))) == golden
        assert pairs.write() == golden
    finally:
        for heal in heals:
            heal()
    pairs.local.wait_until_ready()
    assert pairs.write() == golden


def test_a_full_node_is_passed_by_and_full_nodes_are_named(
    pairs: Cabled, golden: list[int]
) -> None:
    pairs.write()
    span = pairs.model.chain[1].span
    holders = [one.name for one in pairs.local.swarm.nodes_now() if one.span == span]
    with glutton(pairs.local.swarm.invite) as guest:
        guest.fill(pairs.name(1))
        assert pairs.write() == golden
        for name in holders:
            guest.fill(name)
        with pytest.raises(ShardlineError, match="cache tokens were asked") as refused:
            pairs.write()
        assert isinstance(refused.value.__dict__.get("cause", refused.value), CacheFull)
        guest.leave()
        assert pairs.write() == golden


def test_a_lone_node_that_is_cut_off_is_missed_by_name_and_rejoins_by_itself(
    lone: Cabled, golden: list[int]
) -> None:
    healers: list[threading.Thread] = []

    def cut() -> None:
        lone.listen()
        heal = FAULTS["cut"].strike(lone.field, lone.name(1))

        def wait() -> None:
            try:
                assert lone.heard.wait(NOTICE_S), "nobody told the caller"
            finally:
                heal()

        healers.append(threading.Thread(target=wait))
        healers[0].start()

    assert lone.write(12, cut) == golden
    healers[0].join()
    assert str(lone.told[0]).startswith(f"no live node holds blocks {parts(3)[1]}")
    assert isinstance(lone.told[-1], Mended)


def test_a_link_between_two_nodes_that_broke_is_there_again(
    lone: Cabled, golden: list[int]
) -> None:
    """Only this one link breaks: both nodes stay linked to everybody else."""
    lone.write()
    names = lone.name(0), lone.name(1)
    (cables, first), (_, second) = map(lone.field.cable, names)
    before = connections(lone, *names)
    assert before, "they had no link of their own"
    cables.reset(first, second)
    assert_soon(lambda: not before & connections(lone, *names), "the link did not break")
    assert_soon(lambda: bool(connections(lone, *names)), "nobody dialled again")
    assert lone.write() == golden  # nobody else could send it from the one to the other


def test_corrupted_bytes_break_links_and_not_the_text(pairs: Cabled, golden: list[int]) -> None:
    """The last of these nodes' tests: zenoh may end some of them for it (decision 0002)."""
    strike = FAULTS["corrupt"].strike
    assert pairs.write(12, lambda: strike(pairs.field, pairs.name(0))) == golden
    assert any(isinstance(news, Mended) for news in pairs.told), "no link broke"


def connections(scene: Cabled, one: str, other: str) -> set[tuple[int, int]]:
    """Those that either of these nodes dialled to the other, by the ports of both ends."""
    found: set[tuple[int, int]] = set()
    for dialler, dialled in ((one, other), (other, one)):
        process, (_, place) = scene.local.processes[dialler], scene.field.cable(dialled)
        for line in Path(f"/proc/{process.pid}/net/tcp").read_text().splitlines()[1:]:
            _, near, far, state, *_ = line.split()
            ports = tuple(int(end.rpartition(":")[2], 16) for end in (near, far))
            if state == ESTABLISHED and ports[1] == int(place.listen.rpartition(":")[2]):
                found.add((ports[0], ports[1]))
    return found


def assert_soon(condition: Callable[[], bool], text: str) -> None:
    """It comes to hold within LINKS_S."""
    deadline_s = time.monotonic() + LINKS_S
    while not condition():
        assert time.monotonic() < deadline_s, text
        time.sleep(POLL_S)
