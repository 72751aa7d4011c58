from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.core.errors import BadInput
from shardline.simulation import Settings
from shardline.simulation.agenda import TICK_S, Agenda
from shardline.simulation.network import Network


@given(st.lists(st.integers(0, 50), max_size=30))
def test_things_happen_in_order_of_time_and_then_of_asking(ticks: list[int]) -> None:
    agenda, seen = Agenda(), list[tuple[int, int]]()
    for number, tick in enumerate(ticks):
        agenda.at(tick, lambda at=(tick, number): seen.append(at))
    agenda.run(60 * TICK_S)
    assert seen == sorted((tick, number) for number, tick in enumerate(ticks))


def test_what_is_put_down_late_happens_now_and_nothing_happens_after_the_end() -> None:
    agenda, seen = Agenda(), list[float]()
    agenda.at(10, lambda: agenda.at(3, lambda: seen.append(agenda.now_s)))
    agenda.after(100.0, lambda: seen.append(-1.0))
    agenda.run(5.0)
    assert seen == [10 * TICK_S]
    assert agenda.now_s == 5.0


def test_a_trace_tells_two_stories_apart() -> None:
    traces: list[str] = []
    for word in ("one", "one", "other"):
        agenda = Agenda()
        agenda.note(word, 1)
        traces.append(agenda.trace)
    assert traces[0] == traces[1] != traces[2]


def test_a_link_takes_as_long_in_both_ways_and_loss_costs_time() -> None:
    calm = Network(50, np.random.default_rng(1), loss=0.0)
    lossy = Network(50, np.random.default_rng(1), loss=0.4)
    assert calm.round_trip_ms(3, 9) == calm.round_trip_ms(9, 3) > 0
    all_places = np.arange(50)
    ticks = calm.trip_ticks(0, all_places)
    assert ticks.min() >= 1
    assert lossy.trip_ticks(0, all_places).mean() > ticks.mean()


def test_a_cut_parts_two_sides_until_it_heals() -> None:
    network = Network(4, np.random.default_rng(1), loss=0.0)
    network.cut(np.array([1, 2]))
    assert [network.joined(0, other) for other in range(4)] == [True, False, False, True]
    assert network.joined(1, 2)
    assert network.beyond(0).tolist() == [1, 2]
    network.heal()
    assert network.joined(0, 1)
    assert network.beyond(0).tolist() == []


@pytest.mark.parametrize(
    "nonsense",
    [{"nodes": 0}, {"hours": float("nan")}, {"hours": -1.0}, {"loss": 1.0}, {"seed": -1}],
)
def test_nonsense_is_named(nonsense: dict[str, float]) -> None:
    name, value = next(iter(nonsense.items()))
    with pytest.raises(BadInput, match=f"--{name} {value} is not within"):
        Settings(**nonsense)  # pyright: ignore[reportArgumentType]
