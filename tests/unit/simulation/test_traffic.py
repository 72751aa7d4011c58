"""Callers' steps in virtual time, and weights bred against them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from shardline.cli.simulate import simulate
from shardline.core.errors import BadInput
from shardline.simulation import Traffic, flow, tune
from shardline.swarm import WEIGHTS

SHORT = Traffic(nodes=12, minutes=0.5, seed=3, blocks=8)


def test_equal_seeds_give_equal_steps_and_other_weights_other_ones() -> None:
    first, again = flow(SHORT), flow(SHORT)
    assert first == again
    assert first.step_ms
    other = replace(WEIGHTS, load_max=0.0, queue=0.0, spread=0.0)
    assert flow(SHORT, other).step_ms != first.step_ms


def test_who_looks_at_load_and_queues_waits_less() -> None:
    blind = replace(WEIGHTS, load_max=0.0, queue=0.0)
    runs = [replace(SHORT, seed=seed, minutes=1.0) for seed in range(6)]
    assert sum(flow(run).p95_ms for run in runs) < sum(flow(run, blind).p95_ms for run in runs)


def test_where_nodes_die_tokens_are_replayed() -> None:
    flowed = flow(Traffic(minutes=2.0))
    assert flowed.rerouted
    assert flowed.replayed
    assert 0 < flowed.wasted < 1


def test_tuning_tells_weights_and_what_they_bring_on_held_out_seeds() -> None:
    found = tune(replace(SHORT, minutes=0.1), generations=1, held_out=4)
    assert found.weights.keys() == found.defaults.keys()
    assert found.bred_on.gain >= -1e-9  # today's weights are among those bred from
    for one in (found.bred_on, *found.held_out):
        assert one.gain_low <= one.gain <= one.gain_high
    assert found.sure_gain == all(one.gain_low > 0 for one in found.held_out)


def test_nonsense_is_refused() -> None:
    with pytest.raises(BadInput, match="--nodes 1 is not"):
        Traffic(nodes=1)
    with pytest.raises(BadInput, match="--generations"):
        tune(SHORT, generations=-1)


def test_the_command_prints_one_object_or_tables() -> None:
    asked = ["tune", "--nodes", "6", "--minutes", "0.1", "--generations", "0"]
    told = CliRunner().invoke(simulate, [*asked, "--json"])
    assert {"weights", "held_out", "sure_gain"} <= json.loads(told.stdout).keys()
    assert "load_max" in CliRunner().invoke(simulate, asked).stdout
