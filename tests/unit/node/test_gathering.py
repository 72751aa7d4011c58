"""Rounds of a node in virtual time: who is waited for, how long, and what that brings."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.core.ids import NodeId, Seat, SessionId
from shardline.node import gathering
from shardline.node.gathering import LATE, PATIENCE, Gathering
from shardline.wire import COUNT_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    Pause = Callable[[random.Random, int, int], float]
    """How long until a session comes back: luck, its number, and its place in the round."""

FIXED_S, EACH_S = 0.035, 0.003
"""A round's time: reading the weights, and each step's own part."""
BLOCKS = 4
BEFORE = NodeId("b" * 64)


def seat(number: int) -> Seat:
    return Seat(SessionId(f"{number:032x}"), 0)


def round_s(steps: int) -> float:
    return FIXED_S + EACH_S * steps


@dataclass
class Node:
    """One node, its sessions, and a clock of its own."""

    pauses: Pause
    luck: random.Random = field(default_factory=lambda: random.Random(1))
    gathering: Gathering = field(default_factory=Gathering)
    now_s: float = 0.0
    sizes: list[int] = field(default_factory=list[int])
    waited_s: list[float] = field(default_factory=list[float])
    """Before each round, though somebody was here."""
    lies: bool = False
    """Steps say that many follow."""
    coming: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    here: list[int] = field(default_factory=list[int])

    def serve(self, sessions: int, rounds: int) -> float:
        """Let sessions come at random times, and go on; tokens a second of the later half."""
        for number in range(sessions):
            heapq.heappush(self.coming, (self.luck.uniform(0, 10 * FIXED_S), number))
        half_s = 0.0
        while len(self.sizes) < rounds:
            self._round()
            half_s = half_s or (self.now_s if len(self.sizes) == rounds // 2 else 0.0)
        return sum(self.sizes[rounds // 2 :]) / (self.now_s - half_s)

    def _round(self) -> None:
        if not self.here:
            self._until(self.coming[0][0])
        could_s = self.now_s
        while wait_s := self.gathering.wait_s(self.now_s, BLOCKS):
            self._until(min([self.now_s + wait_s, *(came_s for came_s, _ in self.coming[:1])]))
        self.waited_s.append(self.now_s - could_s)
        self.gathering.begun()
        took_s = round_s(len(self.here))
        ran, self.here = self.here, []
        self._until(self.now_s + took_s)
        self.gathering.ended(took_s, BLOCKS)
        self.sizes.append(len(ran))
        for place, number in enumerate(ran):
            self.gathering.left(seat(number), self.now_s)
            back_s = self.now_s + self.pauses(self.luck, number, place)
            heapq.heappush(self.coming, (back_s, number))

    def _until(self, then_s: float) -> None:
        while self.coming and self.coming[0][0] <= then_s:
            came_s, number = heapq.heappop(self.coming)
            self.gathering.came(seat(number), came_s)
            if self.lies:
                self.gathering.announced(BEFORE, self.luck.randrange(COUNT_MAX))
            self.here.append(number)
        self.now_s = max(self.now_s, then_s)


def near(luck: random.Random, number: int, place: int) -> float:
    """Results leave one after the other, and come back within milliseconds."""
    del number
    return luck.uniform(0.003, 0.006) + 0.0003 * place


def far(luck: random.Random, number: int, place: int) -> float:
    del number, place
    return luck.uniform(0.05, 0.07)


def both(luck: random.Random, number: int, place: int) -> float:
    return (near if number % 2 else far)(luck, number, place)


def test_a_session_that_is_alone_never_waits() -> None:
    node = Node(near)
    node.serve(1, 50)
    assert set(node.waited_s) == {0.0}


@pytest.mark.parametrize("sessions", [2, 4, 16, 48])
def test_sessions_that_come_back_soon_share_every_round(sessions: int) -> None:
    node = Node(near)
    full = sessions / (round_s(sessions) + near(random.Random(0), 0, sessions))
    assert node.serve(sessions, 200) > 0.95 * full
    assert set(node.sizes[100:]) == {sessions}


def test_without_gathering_they_take_turns_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    gathered = Node(near).serve(16, 200)
    monkeypatch.setattr(gathering, "PATIENCE", 0.0)
    node = Node(near)
    assert node.serve(16, 200) < 0.8 * gathered
    assert sum(node.sizes[100:]) / 100 == pytest.approx(8, abs=0.5)


@pytest.mark.parametrize("sessions", [2, 4, 16])
def test_who_is_far_away_costs_the_others_nothing(
    sessions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered = Node(far).serve(sessions, 200)
    monkeypatch.setattr(gathering, "PATIENCE", 0.0)
    assert gathered > 0.98 * Node(far).serve(sessions, 200)


def test_near_ones_gather_beside_far_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    gathered = Node(both).serve(16, 200)
    monkeypatch.setattr(gathering, "PATIENCE", 0.0)
    assert gathered > 1.1 * Node(both).serve(16, 200)


@dataclass
class Chain:
    """Nodes one after the other, each as many times as slow as `slow` says, and one caller."""

    slow: tuple[float, ...]
    pause: Callable[[], float]
    """How long until the caller sends a session's next step."""
    crowded: float = 0.0
    """How much longer a round takes for each other node that is at work: they share a machine."""
    now_s: float = 0.0
    sizes: list[list[int]] = field(default_factory=list[list[int]])
    told: Counter[int] = field(default_factory=Counter[int])
    """Tokens of each session."""
    waits_s: list[float] = field(default_factory=list[float])

    def __post_init__(self) -> None:
        self.sizes = [[] for _ in self.slow]
        self.gathering = [Gathering() for _ in self.slow]
        self.here: list[list[int]] = [[] for _ in self.slow]
        self.busy = [False] * len(self.slow)
        self.took: dict[int, list[float]] = {}
        self.slowest_s: dict[int, float] = {}
        """What the caller says with each session's step."""
        self.order = itertools.count()
        self.due: list[tuple[float, int, Callable[[], None]]] = []

    def serve(self, sessions: int, tokens: int) -> float:
        """Let sessions come at once, and go on; tokens a second of the later half."""
        for number in range(sessions):
            self.took[number], self.slowest_s[number] = [], 0.0
            self._at(0.0, lambda n=number: self._comes(0, n, 0))
        half_s = 0.0
        while self.told.total() < tokens:
            self.now_s, _, act = heapq.heappop(self.due)
            act()
            half_s = half_s or (self.now_s if self.told.total() >= tokens // 2 else 0.0)
        return (tokens - tokens // 2) / (self.now_s - half_s)

    def _at(self, then_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self.due, (then_s, next(self.order), act))

    def _comes(self, node: int, number: int, behind: int) -> None:
        gathering = self.gathering[node]
        if not node:
            self.slowest_s[number], self.took[number] = max(self.took[number], default=0.0), []
        slowest_s, first = self.slowest_s[number], not node
        gathering.came(seat(number), self.now_s, slowest_s=slowest_s, first=first)
        gathering.announced(BEFORE, behind)
        self.here[node].append(number)
        self._look(node)

    def _look(self, node: int) -> None:
        if self.busy[node] or not self.here[node]:
            return
        wait_s = self.gathering[node].wait_s(self.now_s, BLOCKS)
        self.waits_s.append(wait_s)
        if wait_s:
            self._at(self.now_s + wait_s, lambda: self._look(node))
            return
        self.gathering[node].begun()
        count = self.gathering[node].most(len(self.here[node]))
        ran, self.here[node] = self.here[node][:count], self.here[node][count:]
        took_s = self.slow[node] * round_s(count) * (1 + self.crowded * sum(self.busy))
        self.busy[node] = True
        self.sizes[node].append(count)
        self._at(self.now_s + took_s, lambda: self._end(node, ran, took_s))

    def _end(self, node: int, ran: list[int], took_s: float) -> None:
        self.busy[node] = False
        self.gathering[node].ended(took_s, BLOCKS)
        last = node == len(self.slow) - 1
        self.told.update(ran * last)
        for place, number in enumerate(ran):
            self.gathering[node].left(seat(number), self.now_s)
            self.took[number].append(took_s)
            behind = 0 if last else len(ran) - 1 - place
            then_s = self.now_s + 0.0005 * (1 + place) + (self.pause() if last else 0.0)
            to = 0 if last else node + 1
            self._at(then_s, lambda n=number, b=behind, to=to: self._comes(to, n, b))
        self._look(node)


def soon(seed: int = 1) -> Callable[[], float]:
    luck = random.Random(seed)
    return lambda: luck.uniform(0.003, 0.006)


@pytest.mark.parametrize("nodes", [2, 3, 4])
@pytest.mark.parametrize("sessions", [12, 24])
def test_groups_of_equal_size_keep_all_nodes_of_a_chain_at_work(nodes: int, sessions: int) -> None:
    chain = Chain((1.0,) * nodes, soon())
    found = chain.serve(sessions, 4_000)
    each = sessions // nodes
    assert found > 0.78 * each / round_s(each)
    assert max(chain.told.values()) - min(chain.told[number] for number in range(sessions)) <= 2
    for sizes in chain.sizes:
        later = sizes[len(sizes) // 2 :]
        assert sorted(later)[len(later) // 2] == pytest.approx(each, abs=1)


@pytest.mark.parametrize("pauses", [0, 1, 2])
def test_sessions_whose_persons_think_count_for_nobodys_groups(pauses: int) -> None:
    chain = Chain((1.0, 1.0), soon())
    for made in chain.gathering:
        for number in range(100, 164):
            for _ in range(pauses + 1):
                made.came(seat(number), 0.0)
                made.left(seat(number), 0.0)
    assert chain.serve(12, 4_000) > 0.85 * 6 / round_s(6)


def test_without_groups_the_nodes_of_a_chain_wait_for_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grouped = Chain((1.0, 1.0), soon()).serve(16, 4_000)

    def one(_: object, round_s: float) -> int:
        del round_s
        return 1

    monkeypatch.setattr("shardline.node.gathering._Known.groups", one)
    assert grouped > 1.2 * Chain((1.0, 1.0), soon()).serve(16, 4_000)


@pytest.mark.parametrize("sessions", [4, 8, 16])
def test_nodes_that_slow_each_other_take_turns_with_all(
    sessions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain((1.0, 1.0), soon(), crowded=1.0)
    found = chain.serve(sessions, 8_000)
    once_s = 2 * (round_s(sessions) + 0.0005 * sessions) + 0.0045
    assert found > 0.9 * sessions / once_s

    def untried(*_: object) -> None: ...

    monkeypatch.setattr("shardline.node.trying.Trying.came", untried)
    assert found > 1.15 * Chain((1.0, 1.0), soon(), crowded=1.0).serve(sessions, 8_000)


def test_nobody_waits_for_a_person_who_thinks() -> None:
    luck, near_s = random.Random(3), soon()
    chain = Chain((1.0, 1.0), lambda: 30.0 if luck.random() < 0.005 else near_s(), crowded=1.0)
    chain.serve(8, 8_000)
    assert max(chain.waits_s) < 3 * round_s(8) * 2


def test_where_one_node_is_the_slowest_by_far_all_run_together() -> None:
    for slow in ((1.0, 0.1), (0.1, 1.0)):
        chain = Chain(slow, soon())
        found = chain.serve(12, 4_000)
        assert found > 0.9 * 12 / (1.1 * round_s(12) + 0.02)


def test_a_chain_of_two_sessions_has_both_nodes_at_work() -> None:
    assert Chain((1.0, 1.0), soon()).serve(2, 400) > 0.85 / round_s(1)


@given(st.integers(1, 200), st.integers(1, 60))
def test_whoever_waits_is_taken_in_equal_parts(waiting: int, group: int) -> None:
    made = Gathering()
    for number in range(group):
        made.came(seat(number), 0.0)
    assert made.wait_s(0.0, BLOCKS) == 0.0
    rounds: list[int] = []
    left = waiting
    while left:
        rounds.append(made.most(left))
        assert 1 <= rounds[-1] <= left
        left -= rounds[-1]
    assert max(rounds) <= max(1, 1.5 * group)
    assert max(rounds) - min(rounds) <= max(1, group // 2)


def test_nobody_makes_groups_smaller_by_what_it_says_of_its_chain() -> None:
    sizes: list[int] = []
    for slowest_s in (0.0, 1e-6, 0.04, 10.0):
        made = Gathering()
        for start_s in (0.0, 1.0, 2.0):
            for number in range(8):
                made.came(seat(number), start_s, slowest_s=slowest_s)
            made.begun()
            made.ended(0.04, BLOCKS)
            for number in range(8):
                made.left(seat(number), start_s + 0.92)
        for number in range(8):
            made.came(seat(number), 3.0, slowest_s=slowest_s)
        made.wait_s(3.0, BLOCKS)
        sizes.append(made.most(8))
    assert sizes == [3, 3, 3, 8]


@pytest.mark.parametrize("lies", [False, True])
@given(
    pauses=st.lists(st.floats(0.0, 0.2), min_size=1, max_size=12),
    seed=st.integers(0, 99),
)
def test_no_round_waits_longer_than_a_part_of_the_quickest(
    pauses: list[float], seed: int, *, lies: bool
) -> None:
    node = Node(lambda luck, number, _: pauses[number] * luck.uniform(0.5, 1.5), lies=lies)
    node.luck.seed(seed)
    node.serve(len(pauses), 40)
    quickest = inf
    for waited_s, size in zip(node.waited_s, node.sizes, strict=True):
        assert waited_s <= PATIENCE * quickest + 1e-9
        quickest = min(quickest, round_s(size))


def two_sessions() -> Gathering:
    """Both have come back 4 ms after each result; now the first is here again."""
    both = Gathering()
    for start_s in (0.0, 1.0):
        for number in (1, 2):
            both.came(seat(number), start_s)
        both.begun()
        both.ended(0.04, BLOCKS)
        for number in (1, 2):
            both.left(seat(number), start_s + 0.996)
    both.came(seat(1), 2.0)
    return both


def test_the_last_one_to_come_ends_the_wait() -> None:
    both = two_sessions()
    assert both.wait_s(2.0, BLOCKS) == pytest.approx(LATE * 0.004 - 0.004)
    both.came(seat(2), 2.001)
    assert both.wait_s(2.001, BLOCKS) == 0.0


def test_who_is_gone_is_not_waited_for() -> None:
    both = two_sessions()
    assert both.wait_s(2.0, BLOCKS) > 0
    both.gone(seat(2))
    assert both.wait_s(2.0, BLOCKS) == 0.0


def test_who_does_not_come_is_given_up_and_not_waited_for_again() -> None:
    both = two_sessions()
    assert both.wait_s(2.0, BLOCKS) > 0
    assert both.wait_s(2.005, BLOCKS) == 0.0
    both.begun()
    both.ended(0.04, BLOCKS)
    both.left(seat(1), 2.045)
    both.came(seat(1), 2.049)
    assert both.wait_s(2.049, BLOCKS) == 0.0


def test_a_shorter_span_has_less_patience() -> None:
    both = two_sessions()
    both.came(seat(2), 2.0)
    both.left(seat(2), 2.0)
    assert both.wait_s(2.0, 1) == pytest.approx(PATIENCE * 0.04 / BLOCKS)
