"""`shardline plan --join` over real nodes: they measure their links, and a plan is made of that."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from shardline.node import Pace
from tests.support.swarms import swarm_here

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from shardline.swarm import NodeRecord
    from tests.e2e.conftest import Ended
    from tests.support.swarms import NodesHere

SPANS = {"ada": "0:3", "ben": "3:4"}
KNOWN_S = 120.0
"""Two bursts and two heartbeats, on a machine that is busy with other things."""


@pytest.fixture(scope="module")
def nodes(tiny: Path) -> Generator[NodesHere]:
    """Two nodes that look for somebody to measure several times a second."""
    with swarm_here(tiny) as nodes:
        for name, span in SPANS.items():
            nodes.start(name, span, pace=Pace(probe_s=0.2))
        yield nodes


def measured(records: dict[str, NodeRecord]) -> bool:
    flows = [flow for record in records.values() for *_, flow in record.measured()]
    return len(flows) == len(SPANS) and all(flow.up_kbit_s and flow.down_kbit_s for flow in flows)


def test_nodes_tell_how_fast_their_links_are_and_a_plan_uses_it(
    nodes: NodesHere, tiny: Path, shardline: Callable[..., Ended]
) -> None:
    nodes.wait_until(measured, within_s=KNOWN_S)
    invite = nodes.swarm.invite.encode()
    status = json.loads(shardline("status", "--join", invite, "--json").out)["nodes"]
    for row in status:
        (link,) = row["links"].values()
        assert min(link["rtt_ms"], link["up_mbit_s"], link["down_mbit_s"]) > 0
        assert 0 <= link["late_share"] <= 1
        assert link["pings"] > 0

    ended = shardline("plan", tiny, "--join", invite, "--tokens", "64", "--json")
    assert ended.code == 0, ended.err
    found: dict[str, Any] = json.loads(ended.out)
    swarm = found["swarm"]
    assert set(swarm["nodes"]) == set(SPANS)
    assert swarm["round_trips_measured"] == swarm["round_trips"] == 3
    assert swarm["rates_measured"] >= 2
    assert [0, *(share["stop"] for share in found["assignment"])][-1] == 4
    now = swarm["now"]
    assert {share["node"]: f"{share['start']}:{share['stop']}" for share in now["assignment"]} == (
        SPANS
    )
    assert swarm["ratio"] == pytest.approx(now["value_ms"] / found["value_ms"])
    assert swarm["ratio"] >= 1.0 - 1e-9

    ended = shardline("plan", tiny, "--join", invite, "--tokens", "64", "--what-if", "remove=ben")
    assert ended.code == 0, ended.err
    now_line, rests_on, what_if = ended.out.splitlines()[-3:]
    assert now_line.startswith("now: ")
    assert "over ada 0:3, ben 3:4; the plan: " in now_line
    assert "3 of 3 round trips" in rests_on
    assert what_if.startswith("remove=ben would ")


def test_a_swarm_without_nodes_is_one_line(shardline: Callable[..., Ended], tiny: Path) -> None:
    with swarm_here(tiny) as nobody:
        ended = shardline("plan", tiny, "--join", nobody.swarm.invite.encode())
    ended.one_line(2, "nobody serves in this swarm", "--nodes FILE")
