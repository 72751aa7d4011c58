"""The swarm's own code under faults, in virtual time: small worlds, one story each."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from shardline.cli.simulate import simulate as command
from shardline.simulation import Report, Settings, World, simulate
from shardline.simulation.machines import WALL_S
from shardline.simulation.peer import Peer, Planner
from shardline.swarm import best_move

CALM = {
    "cuts_per_day": 0.0,
    "pauses_per_day": 0.0,
    "requests_per_hour": 0.0,
    "up_hours": 1e6,
    "down_minutes": 1e5,
}
STORM = {"up_hours": 0.5, "pauses_per_day": 40.0, "cuts_per_day": 60.0, "loss": 0.05}


def _world(nodes: int = 12, **changes: float) -> World:
    """A calm swarm, half an hour old: nobody comes or goes by itself."""
    settings = Settings(**({"nodes": nodes, "hours": 100.0} | CALM | changes))  # pyright: ignore[reportArgumentType]
    world = World(settings)
    for number in range(nodes):
        world.agenda.after(10.0 * number, lambda n=number: world.start(n))
    world.agenda.run(1_800.0)
    return world


def _run(world: World, wait_s: float) -> None:
    world.agenda.run(world.agenda.now_s + wait_s)


def _peer(world: World, number: int) -> Peer:
    peer = world.gossip.peers[number]
    assert peer is not None
    return peer


def _sees(world: World, number: int, other: int) -> bool:
    return world.node(other) in _peer(world, number).seen


def test_everybody_sees_everybody() -> None:
    world = _world()
    assert world.views_agree()
    assert all(len(_peer(world, number).seen) == 12 for number in range(12))


@pytest.mark.parametrize(("silent", "limit_s"), [(False, 0.5), (True, 5.0)])
def test_a_dead_node_is_out_of_every_view_soon(silent: bool, limit_s: float) -> None:  # noqa: FBT001
    world = _world()
    world.kill(3, silent=silent)
    _run(world, limit_s)
    assert not any(_sees(world, number, 3) for number in range(12) if number != 3)


def test_a_restarted_node_is_one_node_whichever_news_comes_first() -> None:
    world = _world()
    world.kill(3, silent=True)
    world.start(3)  # before anybody has missed it
    _run(world, 120.0)
    assert world.views_agree()
    assert all(_sees(world, number, 3) for number in range(12))


def test_a_frozen_node_is_gone_after_the_lease_and_back_when_it_thaws() -> None:
    world = _world()
    world.freeze(3, 20.0)
    _run(world, 2.0)
    assert all(_sees(world, number, 3) for number in range(12))
    _run(world, 3.0)
    assert not any(_sees(world, number, 3) for number in range(12) if number != 3)
    world.kill(5, silent=False)  # what it sleeps through it learns afterwards
    _run(world, 17.0)
    assert world.views_agree()
    assert _sees(world, 0, 3)
    assert not _sees(world, 3, 5)


def test_a_cut_parts_the_views_and_its_end_joins_them() -> None:
    world = _world()
    away = [0, 1, 2, 3]
    world.cut(away, 60.0)
    _run(world, 5.0)
    assert set(_peer(world, 0).seen) == {world.node(number) for number in away}
    assert len(_peer(world, 9).seen) == 8
    world.kill(9, silent=False)  # nobody on the other side hears of it
    _run(world, 60.0)
    assert world.views_agree()
    assert not _sees(world, 0, 9)


def test_a_cut_shorter_than_the_lease_is_not_noticed() -> None:
    world = _world()
    world.cut([0, 1], 1.0)
    _run(world, 10.0)
    assert world.views_agree()


def test_clocks_that_differ_by_seconds_do_no_harm() -> None:
    assert _world(skew_s=5.0).views_agree()


def test_a_node_whose_clock_is_hours_off_is_not_seen() -> None:
    world = _world(nodes=6, skew_s=600.0, seed=3)
    off = [n for n in range(6) if abs(_peer(world, n).machine.skew_s) > 300]
    on = [n for n in range(6) if abs(_peer(world, n).machine.skew_s) < 15]
    assert off
    assert not any(_sees(world, number, other) for number in on for other in off)


LONG = [pytest.param(seed, marks=pytest.mark.long) for seed in (0, 1, 3)]


@pytest.mark.parametrize("seed", [2, *LONG])
def test_after_any_storm_the_views_agree(seed: int) -> None:
    report = simulate(Settings(nodes=25, hours=2.0, seed=seed, **STORM))  # pyright: ignore[reportArgumentType]
    assert report.deaths > 40
    assert report.cuts > 1
    assert report.views_agree
    assert 0 < report.converged_p99_s < 10


@pytest.mark.long
def test_the_same_seed_is_the_same_run() -> None:
    settings = Settings(nodes=20, hours=1.0, seed=5, **STORM)  # pyright: ignore[reportArgumentType]
    first, again = simulate(settings), simulate(settings)
    other = simulate(Settings(nodes=20, hours=1.0, seed=6, **STORM))  # pyright: ignore[reportArgumentType]
    assert first.trace == again.trace != other.trace


def test_a_planner_remembers_what_best_move_says() -> None:
    world = _world(nodes=20)
    peer = _peer(world, 0)
    mine = peer.record
    assert mine is not None
    for minute in range(8):
        now_s = WALL_S + 2_000 + 60 * minute
        expected = best_move(
            peer.seen.values(),
            blocks=mine.blocks,
            fingerprint=mine.fingerprint,
            dtype=mine.dtype,
            now_s=now_s,
        )
        for _ in range(2):
            assert Planner().plan(minute, mine, peer.seen.values(), now_s) == expected


def test_a_busy_swarm_stays_covered_serves_and_does_not_thrash() -> None:
    report = simulate(Settings(nodes=100, hours=4.0, seed=2, requests_per_hour=40.0, up_hours=8.0))
    assert report.coverage_lost_s == 0.0
    assert report.served > 100
    assert report.failed == 0
    assert report.converged_p99_s < 10.0
    assert report.bytes_per_s_per_node < 100_000
    assert report.moves < report.joins + report.deaths  # one a change, at the most
    assert report.balance > 0.85


def test_the_command_prints_one_object_or_one_table() -> None:
    arguments = ["swarm", "--nodes", "8", "--hours", "0.5", "--seed", "3"]
    result = CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False)
    answer = json.loads(result.output)
    wanted = {"converged_p99_s", "bytes_per_s_per_node", "coverage_lost_s", "moves"}
    assert wanted <= set(answer) == set(Report.__struct_fields__)
    shown = CliRunner().invoke(command, arguments, catch_exceptions=False).output
    assert "known to all" in shown
    assert answer["trace"] in shown
