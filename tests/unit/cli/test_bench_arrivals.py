"""Sessions at different times: what they send, when they begin, and what is counted."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardline.cli.bench_arrivals import (
    WAVES,
    Arrivals,
    Stream,
    gaps_of,
    measure_arrivals,
    scripts_of,
    wave,
)
from shardline.cli.bench_crowd import prompts_of
from shardline.core.errors import NodeLost
from shardline.model import quiet
from tests.unit.cli.test_bench_crowd import CPU, Lends

if TYPE_CHECKING:
    from collections.abc import Callable

SESSIONS, TOKENS = 3, 4
SCRIPTS: Any = [[(session, step) for step in range(TOKENS)] for session in range(SESSIONS)]


@dataclass
class Nodes:
    """Keeps what each session sends, until it is ended."""

    fails: bool = False
    open: dict[Any, list[Any]] = field(default_factory=dict[Any, list[Any]])
    ended: list[list[Any]] = field(default_factory=list[list[Any]])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, cache: Any, crossing: Any) -> Any:
        if self.fails and crossing[0] == 1:
            raise NodeLost("ada went away")
        with self.lock:
            self.open.setdefault(cache, []).append(crossing)

    def end(self, cache: Any) -> None:
        with self.lock:
            self.ended.append(self.open.pop(cache, []))


def test_what_sessions_send_is_noted_step_by_step() -> None:
    lends: Any = Lends()
    with quiet():
        scripts = scripts_of(lends, prompts_of(2, 19, 1792), TOKENS, CPU)
    assert [[crossing.tokens for crossing in script] for script in scripts] == [[19, 1, 1, 1]] * 2
    assert all(crossing.batch == 1 for script in scripts for crossing in script)
    first, second = (script[0].carried[0] for script in scripts)
    assert not torch.equal(first, second)


def test_a_wave_sends_every_script_once_and_ends_its_sessions() -> None:
    nodes: Any = Nodes()
    assert wave(nodes, SCRIPTS, [0.0, 0.001, 0.002]) > 0
    assert sorted(nodes.ended) == SCRIPTS
    assert not nodes.open


def test_in_a_stream_whoever_ends_is_followed() -> None:
    nodes: Any = Nodes()
    assert stream(nodes, SCRIPTS, [0.0, 0.0, 0.001]) > 0
    whole = [sent for sent in nodes.ended if len(sent) == TOKENS]
    assert len(whole) >= WAVES * SESSIONS
    assert all(sent == SCRIPTS[sent[0][0]][: len(sent)] for sent in nodes.ended if sent)
    assert not nodes.open


def stream(send: Any, scripts: Any, phases_s: Any) -> float:
    return Stream(send, SESSIONS).run(scripts, phases_s)


@pytest.mark.parametrize("way", [wave, stream])
def test_a_step_that_fails_ends_all_and_is_raised(way: Callable[..., float]) -> None:
    nodes: Any = Nodes(fails=True)
    with pytest.raises(NodeLost, match="ada went away"):
        way(nodes, SCRIPTS, [0.0] * SESSIONS)
    assert not nodes.open


def test_all_figures_are_measured() -> None:
    nodes: Any = Nodes()
    told = measure_arrivals(nodes, SCRIPTS).told(SESSIONS, TOKENS)
    assert (told["sessions"], told["tokens"]) == (SESSIONS, TOKENS)
    assert min(value for value in told.values() if value is not None) > 0


def test_the_share_is_that_of_a_stream() -> None:
    told = Arrivals(together=100.0, stream=90.0, once=70.0, spread_s=2.0).told(16, 26)
    assert told["share"] == pytest.approx(0.9)
    assert (told["random_tokens_per_s"], told["once_tokens_per_s"]) == (90.0, 70.0)


@given(st.integers(1, 64), st.floats(0.0, 100.0), st.integers(0, 9))
def test_sessions_begin_in_turn_over_the_whole_spread(count: int, spread: float, seed: int) -> None:
    begins = gaps_of(count, spread, random.Random(seed))
    assert len(begins) == count
    assert begins == sorted(begins)
    assert begins[0] == 0.0
    assert begins[-1] == pytest.approx(spread if count > 1 else 0.0)
    assert begins == gaps_of(count, spread, random.Random(seed))
