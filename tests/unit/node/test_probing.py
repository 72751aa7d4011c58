"""Bursts against a made-up link: what is found out, what a liar gains, who is left alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.core.errors import NodeLost
from shardline.core.ids import NodeId
from shardline.node.links import Links
from shardline.node.probing import BURSTS_BYTES, IDLE_LOAD, LONG_MS, Prober, measure_rates
from shardline.swarm import State
from shardline.wire import BURST_BYTES_MAX
from tests.unit.swarm.making import HandClock, node_id, record

if TYPE_CHECKING:
    from shardline.node.worker import Worker
    from shardline.swarm import NodeRecord

ME, PEER = node_id(1), node_id(2)


@dataclass
class Line:
    """A link of these rates, whose peer may be slow to answer pings only."""

    up_kbit_s: float = 10_000.0
    down_kbit_s: float = 50_000.0
    rtt_ms: float = 20.0
    held_back_ms: float = 0.0
    busy: bool = False
    dead: bool = False
    bursts: list[tuple[NodeId, int, int]] = field(default_factory=list[tuple[NodeId, int, int]])

    async def ping(self, peer: NodeId) -> float:
        del peer
        if self.dead:
            raise NodeLost("gone")
        return self.rtt_ms + self.held_back_ms

    async def burst(self, peer: NodeId, *, up_bytes: int = 0, down_bytes: int = 0) -> float | None:
        self.bursts.append((peer, up_bytes, down_bytes))
        if self.busy:
            return None
        return self.rtt_ms + 8 * up_bytes / self.up_kbit_s + 8 * down_bytes / self.down_kbit_s


@pytest.mark.anyio
@pytest.mark.parametrize(("up", "down"), [(500.0, 10_000.0), (40_000.0, 1_000_000.0)])
async def test_both_ways_are_found_whatever_the_round_trip(up: float, down: float) -> None:
    for rtt_ms in (0.5, 200.0):
        rates = await measure_rates(Line(up, down, rtt_ms), PEER)
        assert rates is not None
        found = (rates.up_kbit_s, rates.down_kbit_s)
        for true, told in zip((up, down), found, strict=True):
            size = 8 * BURST_BYTES_MAX / true
            seen = true if size >= rtt_ms else 2 * true * size / (size + rtt_ms)
            assert told == pytest.approx(seen, rel=0.01), "or twice what came in the time"


@pytest.mark.anyio
@given(st.floats(100, 1e6), st.floats(0.1, 500), st.floats(0, 5_000))
async def test_slow_pings_make_no_link_look_faster_than_twice_what_came(
    kbit_s: float, rtt_ms: float, held_back_ms: float
) -> None:
    line = Line(kbit_s, kbit_s, rtt_ms, held_back_ms)
    rates = await measure_rates(line, PEER)
    assert rates is not None
    ups, downs = [up for _, up, _ in line.bursts if up], [down for *_, down in line.bursts if down]
    for told, size in ((rates.up_kbit_s, ups[-1]), (rates.down_kbit_s, downs[-1])):
        came_kbit_s = 8 * size / (rtt_ms + 8 * size / kbit_s)
        assert told <= 2 * came_kbit_s + 1


@pytest.mark.anyio
async def test_a_slow_link_is_not_held_up_by_the_larger_bursts() -> None:
    line = Line(up_kbit_s=800.0, down_kbit_s=1e6)
    assert await measure_rates(line, PEER) is not None
    assert [up for _, up, _ in line.bursts if up] == [BURSTS_BYTES[0]]
    assert 8 * BURSTS_BYTES[0] / 800.0 > LONG_MS
    assert [down for _, _, down in line.bursts if down] == list(BURSTS_BYTES)
    assert sum(BURSTS_BYTES) < 2**20


@pytest.mark.anyio
async def test_who_has_no_time_or_is_gone_gives_nothing() -> None:
    busy = Line(busy=True)
    assert await measure_rates(busy, PEER) is None
    assert len(busy.bursts) == 1, "it is not asked again and again"
    assert await measure_rates(Line(dead=True), PEER) is None


# --- WHO IS ASKED ---


def prober(line: Line, *records: NodeRecord) -> tuple[Prober, Links]:
    links = Links(ME)
    for node in links.turn(one.node for one in records):
        links.add(node, 20.0)

    async def all_records() -> list[NodeRecord]:
        return list(records)

    worker = cast("Worker", None)  # a turn does not look at it
    return Prober(line, links, all_records, worker, pause_s=1.0, clock=HandClock()), links


@pytest.mark.anyio
@pytest.mark.parametrize(
    "changes", [{"load": 2 * IDLE_LOAD}, {"queue": 1}, {"state": State.LOADING}]
)
async def test_who_has_work_to_do_is_left_alone(changes: dict[str, Any]) -> None:
    line = Line()
    asking, links = prober(line, record(PEER, **changes))
    await asking.turn()
    assert line.bursts == []
    assert [flow.up_kbit_s for *_, flow in record(ME, **links.told()).measured()] == [0]


@pytest.mark.anyio
async def test_each_turn_measures_one_link_and_tells_it() -> None:
    line = Line()
    asking, links = prober(line, *(record(number) for number in (2, 3, 4)))
    for turn in range(1, 5):
        await asking.turn()
        assert len({peer for peer, *_ in line.bursts}) == min(turn, 3)
    told = record(ME, **links.told())
    assert {flow.up_kbit_s for *_, flow in told.measured()} == {10_000}
    assert {flow.down_kbit_s for *_, flow in told.measured()} == {50_000}
